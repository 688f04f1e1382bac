//! Conditional appends: `If-Match` on a partition's next offset.

use harness::Server;
use serde_json::json;

const PARTITION: &str = "/v1/topics/orders/partitions/0/records";

#[tokio::test]
async fn an_append_at_the_next_offset_succeeds_and_any_other_changes_nothing() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    server.post(PARTITION).header("if-match", "\"0\"").body("a").await.expect(201);
    for wrong in ["\"0\"", "\"2\""] {
        let answer = server.post(PARTITION).header("if-match", wrong).body("b").await;
        let problem = answer.problem(412, "precondition-failed");
        assert_eq!(problem["effect"], "none");
        assert!(
            answer.header("etag") == "\"1\"" || problem.to_string().contains('1'),
            "the current one: {problem}"
        );
    }
    server.post(PARTITION).header("if-match", "\"1\"").body("c").await.expect(201);
    let values: Vec<_> =
        server.read_all(PARTITION).await.iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, ["a", "c"]);
}

#[tokio::test]
async fn of_racing_conditional_appends_exactly_one_wins() {
    let server = Server::start().await;
    server.create_topic("orders", json!({})).await;
    for offset in 0..5 {
        let condition = format!("\"{offset}\"");
        let racers =
            (0..8).map(|_| async { server.post(PARTITION).header("if-match", &condition).body("x").await });
        let mut statuses: Vec<u16> =
            futures::future::join_all(racers).await.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
    }
    assert_eq!(server.read_all(PARTITION).await.len(), 5);
}
