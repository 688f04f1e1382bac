use super::*;

fn lines(pieces: Vec<&'static str>, budget: &Budget, headers: &HeaderMap) -> Lines {
    let pieces = pieces.into_iter().map(|piece| Ok::<_, io::Error>(Bytes::from_static(piece.as_bytes())));
    Lines::new(Body::from_stream(futures::stream::iter(pieces)), budget.clone(), headers)
}

/// A budget without free shares.
fn budget() -> Budget {
    Budget::new(ROOM, 0)
}

const ROOM: usize = 2 * limits::BODY_UNIT_BYTES;
const LINE: usize = limits::LINE_OVERHEAD_BYTES;

#[tokio::test]
async fn room_is_held_while_lines_are_and_given_back_with_them() {
    let budget = budget();
    let mut body = lines(vec!["a\nb", "c\nd", "\n"], &budget, &HeaderMap::new());
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "a");
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "bc");
    assert_eq!(body.room.held, 6 + 2 * LINE, "both pieces are held by lines");
    assert_eq!(budget.available(), ROOM - limits::BODY_UNIT_BYTES, "room for a unit was taken at once");
    body.release();
    assert_eq!(budget.available(), ROOM - 1, "what was not handed out is still held");
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "d");
    drop(body);
    assert_eq!(budget.available(), ROOM);
}

#[tokio::test]
async fn blank_lines_do_not_use_the_budget_up() {
    let budget = Budget::new(4 * (1 + LINE), limits::BODY_UNIT_BYTES);
    let mut body = lines(vec!["\n\n\n\n", "\r\n\r\n", "\n\nx\n"], &budget, &HeaderMap::new());
    assert_eq!(body.next_line().await.unwrap().unwrap(), Line { number: 9, bytes: "x".into() });
    assert_eq!(body.room.held, 4 + 3 * LINE, "only the last piece");
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_a_body_waits_a_while_and_then_the_node_is_overloaded() {
    let budget = Budget::new(3, 0);
    let problem = lines(vec!["abcd"], &budget, &HeaderMap::new()).whole(4).await.unwrap_err();
    assert_eq!((problem.code, problem.retry_after.is_some()), (Code::Overloaded, true));
    let held = budget.take(3, Duration::ZERO).await.unwrap();
    let began = Instant::now();
    let problem = lines(vec!["abc"], &budget, &HeaderMap::new()).whole(3).await.unwrap_err();
    assert_eq!((problem.code, began.elapsed().as_secs()), (Code::Overloaded, 5));
    let waiting = lines(vec!["abc"], &budget, &HeaderMap::new());
    let waiting = tokio::spawn(async move { { waiting }.whole(3).await });
    budget.pressed().await;
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap(), "abc");
    assert_eq!(budget.available(), 3);
}

#[tokio::test]
async fn a_small_body_never_meets_the_budget() {
    let budget = Budget::new(0, 4 + LINE);
    assert_eq!(lines(vec!["ab", "cd"], &budget, &HeaderMap::new()).whole(100).await.unwrap(), "abcd");
    let mut body = lines(vec!["abc\n"], &budget, &HeaderMap::new());
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "abc");
}

/// A body that sends one line and then nothing for ever.
fn stuck(budget: &Budget) -> Lines {
    let first = futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"abc\n"))]);
    let body = Body::from_stream(first.chain(futures::stream::pending()));
    Lines::new(body, budget.clone(), &HeaderMap::new())
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_gives_its_room_up_when_others_need_it_and_only_then() {
    let budget = Budget::new(limits::BODY_UNIT_BYTES, 0);
    let mut slow = stuck(&budget);
    assert_eq!(slow.next_line().await.unwrap().unwrap().bytes, "abc");
    assert_eq!(budget.available(), 0);
    let undisturbed = tokio::time::timeout(Duration::from_secs(1000), slow.next_line()).await;
    assert!(undisturbed.is_err(), "nobody needed the room");
    let slow = tokio::spawn(async move { slow.next_line().await });
    let fast = lines(vec!["xyz"], &budget, &HeaderMap::new()).whole(100).await;
    assert_eq!(fast.unwrap(), "xyz");
    assert_eq!(slow.await.unwrap().unwrap_err().code, Code::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_waits_for_room_is_not_lost_when_its_reader_turns_away() {
    let budget = Budget::new(limits::BODY_UNIT_BYTES, 0);
    let held = budget.take(limits::BODY_UNIT_BYTES, Duration::ZERO).await.unwrap();
    let mut body = lines(vec!["abc\n"], &budget, &HeaderMap::new());
    assert!(tokio::time::timeout(limits::UNIT_PAUSE, body.next_line()).await.is_err());
    drop(held);
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "abc");
}

#[tokio::test(start_paused = true)]
async fn a_body_held_whole_has_a_deadline_however_steadily_it_trickles() {
    let drops = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
    });
    let began = Instant::now();
    let mut body = Lines::new(Body::from_stream(drops), budget(), &HeaderMap::new());
    assert_eq!(body.whole(1000).await.unwrap_err().code, Code::BadParameter);
    assert_eq!(began.elapsed(), limits::WHOLE_BODY_WAIT_MAX);
}

#[tokio::test]
async fn a_decoder_counts_for_the_window_it_has_filled() {
    use tokio::io::AsyncReadExt as _;
    let mut encoder = async_compression::tokio::bufread::ZstdEncoder::new(&b"abc\ndef"[..]);
    let mut encoded = Vec::new();
    encoder.read_to_end(&mut encoded).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, "zstd".parse().unwrap());
    let mut body = Lines::new(Body::from(encoded), budget(), &headers);
    body.decode(&headers).unwrap();
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "abc");
    assert_eq!(body.room.wanted(), 7 + LINE + limits::DECODER_BYTES + 7);
    assert_eq!(body.next_line().await.unwrap().unwrap().bytes, "def");
    body.release();
    assert_eq!(body.room.wanted(), 0, "at its end the decoder is gone");
}

#[test]
fn small_pieces_let_go_of_the_buffer_they_were_read_into() {
    let buffer = Bytes::from(vec![b'x'; 2 * limits::PIECE_BYTES_MIN]);
    let range = buffer.as_ptr_range();
    assert!(!range.contains(&own(buffer.slice(..limits::PIECE_BYTES_MIN - 1)).as_ptr()));
    assert!(range.contains(&own(buffer.slice(..limits::PIECE_BYTES_MIN)).as_ptr()));
}

#[tokio::test]
async fn a_body_that_was_not_asked_for_is_not_drained() {
    let budget = budget();
    let mut headers = HeaderMap::new();
    headers.insert(EXPECT, "100-continue".parse().unwrap());
    let mut body = lines(vec!["abc"], &budget, &headers);
    body.drain().await;
    assert_eq!(body.whole(10).await.unwrap(), "abc");
    let mut body = lines(vec!["abc"], &budget, &HeaderMap::new());
    body.drain().await;
    assert_eq!(body.whole(10).await.unwrap(), "");
}

#[tokio::test]
async fn joined_gzip_members_are_read_to_the_end() {
    use tokio::io::AsyncReadExt as _;
    let mut joined = Vec::new();
    for part in [&b"one\n"[..], b"two\n"] {
        let mut encoder = async_compression::tokio::bufread::GzipEncoder::new(part);
        encoder.read_to_end(&mut joined).await.unwrap();
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, "GZip".parse().unwrap());
    let mut body = Lines::new(Body::from(joined), budget(), &headers);
    body.decode(&headers).unwrap();
    assert_eq!(body.whole(100).await.unwrap(), "one\ntwo\n");
}
