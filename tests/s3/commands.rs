//! `forebay doctor` and `forebay bucket init`, run as an operator runs them.

use std::path::Path;
use std::process::Stdio;

use harness::{Options, Redis, S3Faults, S3Server, SeaweedFs, Server, forebay as command, in_time};
use serde_json::Value;
use tempfile::TempDir;

type Variables = [(&'static str, &'static str); 2];

/// What a command printed, and whether it ended well.
#[derive(Debug)]
struct Said {
    good: bool,
    text: String,
}

impl Said {
    /// The statuses and details of what it says of one thing, in a report for machines.
    fn checks(&self, name: &str) -> Vec<(String, String)> {
        let report: Value = serde_json::from_str(&self.text).expect(&self.text);
        let text = |check: &Value, member: &str| check[member].as_str().expect("a text").to_owned();
        let checks = report["checks"].as_array().expect("a list");
        let of_name = checks.iter().filter(|check| check["name"] == name);
        of_name.map(|check| (text(check, "status"), text(check, "detail"))).collect()
    }

    fn status(&self, name: &str) -> String {
        self.checks(name).into_iter().map(|(status, _)| status).collect()
    }
}

async fn forebay(args: &[&str], data_dir: &Path, variables: &[(&str, &str)]) -> Said {
    let mut command = command();
    command.args(args).arg("--data-dir").arg(data_dir).envs(variables.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = in_time("the command ends", command.output()).await;
    let output = output.expect("the command can be started");
    let text = String::from_utf8(output.stdout).expect("its output is text");
    eprintln!("forebay {args:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Said { good: output.status.success(), text }
}

async fn doctor(url: &str, data_dir: &Path, variables: &Variables) -> Said {
    let args = ["doctor", "--format=json", "--store=s3://bucket/team/events", "--s3-endpoint", url];
    forebay(&args, data_dir, variables).await
}

async fn bucket_init(url: &str, store: &str, more: &[&str], variables: &Variables) -> Said {
    let folder = TempDir::new().expect("the temporary folder can be written");
    let args = [&["bucket", "init", "--s3-endpoint", url, "--store", store], more].concat();
    forebay(&args, folder.path(), variables).await
}

#[tokio::test]
async fn a_doctor_looks_at_a_node_that_runs_and_leaves_it_alone() {
    let s3 = S3Server::start().await;
    let server = Server::start_in_environment(Options::on_s3(s3.url()), &S3Server::variables()).await;
    let said = doctor(s3.url(), &server.data_dir(), &S3Server::variables()).await;
    assert!(said.good);
    for name in ["store", "store.latency", "store.clock", "store.probe", "disk.sync", "cluster"] {
        assert_eq!(said.status(name), "ok", "{name}");
    }
    assert!(said.checks("data-dir")[0].1.ends_with(&format!("in use by process {}", server.pid())));
    assert!(said.checks("cluster")[0].1.contains("1 shards"));
    server.create_topic("orders", serde_json::json!({})).await;
}

#[tokio::test]
async fn a_doctor_finds_what_would_keep_a_node_from_working() {
    let (s3, folder) = (S3Server::start().await, TempDir::new().expect("it can be made"));
    s3.set_faults(S3Faults { unconditional: true, ..S3Faults::default() });
    let said = doctor(s3.url(), folder.path(), &S3Server::variables()).await;
    assert!(!said.good);
    assert_eq!((said.status("store"), said.status("store.probe")), ("ok".to_owned(), "fail".to_owned()));
    let wrong = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let said = doctor(s3.url(), folder.path(), &wrong).await;
    assert!(!said.good);
    assert!(said.checks("store")[0].1.contains("SignatureDoesNotMatch"), "{said:?}");
    assert!(folder.path().read_dir().expect("it is there").next().is_none(), "something was left behind");
}

#[tokio::test]
async fn a_doctor_needs_no_store_to_look_at_a_folder() {
    let server = Server::start().await;
    let said = forebay(&["doctor"], &server.data_dir(), &[]).await;
    assert!(said.good);
    assert!(said.text.contains("in use by process") && said.text.contains("belongs to the node"));
    let folder = TempDir::new().expect("it can be made");
    let said = forebay(&["doctor"], &folder.path().join("new"), &[]).await;
    assert!(said.good && said.text.contains("the first start makes"));
    assert!(!folder.path().join("new").exists());
}

#[tokio::test]
async fn a_doctor_tells_a_redis_that_serves_a_cluster_from_one_that_cannot() {
    let (s3, folder) = (S3Server::start().await, TempDir::new().expect("it can be made"));
    let looks = async |redis: &Redis| {
        let store = ["doctor", "--format=json", "--store=s3://bucket/team/events", "--s3-endpoint", s3.url()];
        let (url, mut args) = (redis.url(), store.to_vec());
        args.extend(["--redis", &url]);
        forebay(&args, folder.path(), &S3Server::variables()).await
    };
    let redis = Redis::start().await;
    let said = looks(&redis).await;
    for name in ["redis", "redis.role", "redis.memory", "redis.persistence", "redis.clock"] {
        assert_eq!(said.status(name), "ok", "{name}");
    }
    assert!(said.good && said.checks("redis.cluster").is_empty());

    let mut redis = Redis::start_with(&["--appendonly", "no", "--cluster-enabled", "yes"]).await;
    let said = looks(&redis).await;
    assert!(!said.good);
    assert_eq!((said.status("redis"), said.status("redis.cluster")), ("ok".to_owned(), "fail".to_owned()));
    redis.kill9().await;
    let said = looks(&redis).await;
    assert!(!said.good);
    assert_eq!(said.status("redis"), "fail");
}

#[tokio::test]
async fn a_bucket_is_made_once_and_then_only_looked_at() {
    let s3 = S3Server::start().await;
    let init =
        async |more: &[&str]| bucket_init(s3.url(), "s3://fresh/events", more, &S3Server::variables()).await;
    let planned = init(&["--dry-run"]).await;
    assert!(planned.good && planned.text.contains("would make fresh"));
    assert_eq!(s3.buckets(), ["bucket"]);
    let made = init(&["--s3-region=eu-north-1"]).await;
    assert!(made.good && made.text.contains("made fresh in eu-north-1"));
    assert_eq!(s3.rules("fresh"), ["forebay-abort-unfinished-uploads"]);
    assert!(s3.blocks_public_access("fresh"));
    assert_eq!(s3.encryption("fresh"), ["AES256"]);
    // This server knows nothing of versions.
    assert_eq!(made.text.matches("warn").count(), 1);
    let again = init(&[]).await;
    assert!(again.good && !again.text.contains("now"), "something was changed again");
    assert_eq!(s3.rules("fresh").len(), 1);
}

#[tokio::test]
async fn keys_of_the_operators_stay_and_versions_that_are_kept_are_a_warning() {
    let s3 = S3Server::start().await;
    let init = async || bucket_init(s3.url(), "s3://bucket/team/events", &[], &S3Server::variables()).await;
    s3.encrypt(S3Server::BUCKET, "aws:kms");
    s3.keep_versions(S3Server::BUCKET, false);
    let said = init().await;
    assert!(said.good && !said.text.contains("warn"));
    assert_eq!(s3.encryption(S3Server::BUCKET), ["aws:kms"]);
    s3.keep_versions(S3Server::BUCKET, true);
    let said = init().await;
    let warned = said.text.lines().find(|line| line.starts_with("warn")).expect("a warning");
    assert!(said.good && warned.contains("versioning") && warned.contains("stays and costs"), "{warned}");
}

#[tokio::test]
async fn a_rule_that_would_delete_records_is_a_failure_and_stays_the_operators() {
    let s3 = S3Server::start().await;
    s3.expire(S3Server::BUCKET, "team/");
    let hit = bucket_init(s3.url(), "s3://bucket/team/events", &[], &S3Server::variables()).await;
    assert!(!hit.good && hit.text.contains("'expire' deletes records"));
    assert_eq!(s3.rules(S3Server::BUCKET), ["expire", "forebay-abort-unfinished-uploads"]);
    s3.expire(S3Server::BUCKET, "other/");
    assert!(bucket_init(s3.url(), "s3://bucket/team/events", &[], &S3Server::variables()).await.good);
    let elsewhere = forebay(&["bucket", "init"], Path::new("unused"), &[]).await;
    assert!(!elsewhere.good, "a folder has no bucket");
}

#[tokio::test]
async fn seaweedfs_passes_for_what_it_is() {
    let seaweed = SeaweedFs::start().await;
    let made = bucket_init(&seaweed.url(), "s3://another/events", &[], &SeaweedFs::variables()).await;
    assert!(made.good);
    assert!(bucket_init(&seaweed.url(), "s3://another/events", &[], &SeaweedFs::variables()).await.good);
    let folder = TempDir::new().expect("it can be made");
    let said = doctor(&seaweed.url(), folder.path(), &SeaweedFs::variables()).await;
    assert!(said.good);
    assert_eq!(said.status("store.probe"), "ok");
}
