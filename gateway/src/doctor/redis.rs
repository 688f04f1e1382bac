//! Redis: whether it answers, how fast, and whether it is what a cluster needs: one primary that forgets nothing by
//! itself.

use std::collections::HashMap;

use forebay_log::clock::Clock;
use redis::ConnectionInfo;
use tokio::time::Instant;

use super::{Latency, clock_offset};
use crate::limits;
use crate::report::{Report, causes};

pub(super) async fn check(server: ConnectionInfo, clock: &dyn Clock, report: &mut Report) {
    if let Err(error) = look(server, clock, report).await {
        report.fail("redis", causes(&error));
    }
}

async fn look(server: ConnectionInfo, clock: &dyn Clock, report: &mut Report) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(server)?.get_multiplexed_async_connection().await?;
    let mut latency = Latency::default();
    for _ in 0..limits::DOCTOR_CALLS {
        let begun = Instant::now();
        let _: String = redis::cmd("PING").query_async(&mut connection).await?;
        latency.0.push(begun.elapsed());
    }
    report.ok("redis", format!("answers, {}", latency.describe()));
    let text: String = redis::cmd("INFO").query_async(&mut connection).await?;
    judge(&parse(&text), report);
    let began = clock.now().as_millis();
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
    clock_offset(report, "redis.clock", seconds * 1000 + micros / 1000, began..=clock.now().as_millis());
    Ok(())
}

/// Reads `name:value` lines.
fn parse(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

fn judge(info: &HashMap<&str, &str>, report: &mut Report) {
    let said = |name: &str| info.get(name).copied().unwrap_or("unknown");
    match said("role") {
        "master" => report.ok("redis.role", format!("primary, version {}", said("redis_version"))),
        role => report.fail("redis.role", format!("not the primary: role={role}")),
    }
    if said("cluster_enabled") == "1" {
        report.fail("redis.cluster", "Redis Cluster cannot be used: one primary is needed");
    }
    match said("maxmemory_policy") {
        "noeviction" => report.ok("redis.memory", "nothing is evicted"),
        policy => {
            let detail = format!(
                "maxmemory-policy is {policy}: with noeviction nothing is lost while memory is short"
            );
            report.warn("redis.memory", detail);
        }
    }
    match said("aof_enabled") {
        "1" => report.ok("redis.persistence", "append-only file"),
        _ => report.ok(
            "redis.persistence",
            "no append-only file: after a restart leases are made anew, leaders go on meanwhile",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    fn judged(text: &str) -> Vec<(&'static str, Status)> {
        let mut report = Report::default();
        judge(&parse(text), &mut report);
        report.checks.iter().map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_server_is_judged_by_what_it_says_of_itself() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        assert!(judged(good).iter().all(|(_, status)| *status == Status::Ok));
        let bad = "role:slave\r\ncluster_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n";
        let expected = [
            ("redis.role", Status::Fail),
            ("redis.cluster", Status::Fail),
            ("redis.memory", Status::Warn),
            ("redis.persistence", Status::Ok),
        ];
        assert_eq!(judged(bad), expected);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_failure() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = redis::IntoConnectionInfo::into_connection_info(format!("redis://{free}")).unwrap();
        let mut report = Report::default();
        check(server, &forebay_log::clock::SystemClock, &mut report).await;
        assert_eq!(report.checks.len(), 1);
        assert!(!report.is_good());
    }
}
