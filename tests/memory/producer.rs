//! Producers: a fast one, and slow ones that begin well and then trickle.

use std::time::Duration;

use bytes::Bytes;
use harness::{Client, PATIENCE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

/// Lines that a slow producer sends at once: more than a body has for nothing.
const BURST_LINES: usize = 1000;
/// Its pause before each further line.
const LINE_PAUSE: Duration = Duration::from_millis(50);

/// Letters that do not compress well.
pub(crate) fn noise(bytes: usize) -> String {
    let mut random = StdRng::seed_from_u64(7);
    (0..bytes).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

/// Cuts letters into so many lines of JSON.
pub(crate) fn lines(fill: &str, count: usize) -> Bytes {
    let size = super::RECORD_BYTES;
    let line = |number: usize| format!("{{\"fill\":\"{}\"}}\n", &fill[number * size..(number + 1) * size]);
    (0..count).map(line).collect::<String>().into()
}

/// Produces lines; past a limit it comes back, as the server asks.
pub(crate) async fn send(client: &Client, topic: &str, body: &Bytes) {
    let path = format!("/v1/topics/{topic}/records");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let call = client.post(&path).header("content-type", "application/x-ndjson");
        let answer = call.body(body.clone()).await;
        if answer.status != 503 {
            answer.expect(201);
            return;
        }
        assert!(
            answer.json()["effect"] == "none" && tokio::time::Instant::now() < deadline,
            "{}",
            answer.text()
        );
    }
}

/// Sends one endless body line by line until it is told to hurry; answers how many lines that were.
pub(crate) async fn trickle(client: Client, producer: usize, hurried: watch::Receiver<bool>) -> usize {
    let text = move |line: usize| format!("{{\"producer\":{producer},\"line\":{line}}}\n");
    let burst: String = (0..BURST_LINES).map(text).collect();
    let state = (BURST_LINES, hurried, Some(burst));
    let pieces = futures::stream::unfold(state, move |(sent, mut hurried, burst)| async move {
        if let Some(burst) = burst {
            return Some((Ok::<_, std::io::Error>(burst), (sent, hurried, None)));
        }
        let told = tokio::time::timeout(LINE_PAUSE, hurried.wait_for(|hurried| *hurried)).await.is_ok();
        (!told).then(|| (Ok(text(sent)), (sent + 1, hurried, None)))
    });
    let call = client.post("/v1/topics/drip/records").header("content-type", "application/x-ndjson");
    // Without a key its lines are stored as they come; with one they are held until a unit is full.
    let call = if producer.is_multiple_of(2) {
        call.header("idempotency-key", &format!("drip-{producer}"))
    } else {
        call
    };
    let answer = call.body(reqwest::Body::wrap_stream(pieces)).try_send().await;
    let receipt = answer.expect("an answer").expect(201).json();
    receipt["count"]
        .as_u64()
        .and_then(|count| usize::try_from(count).ok())
        .expect("a receipt counts its records")
}
