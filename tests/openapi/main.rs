//! Schemathesis against the real binary: it reads the node's own OpenAPI document, sends what that describes and what
//! it forbids, and fails on any 5xx, and on any status, header or body that the document does not describe.
//!
//! `SCHEMATHESIS_EXAMPLES` and `SCHEMATHESIS_SEED` make other runs.

use std::path::Path;
use std::process::Stdio;

use harness::Server;
use serde_json::json;
use tokio::process::Command;

/// Requests per operation that each phase makes up.
const EXAMPLES: &str = "40";
const SEED: &str = "1";
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_schema_conformance,response_headers_conformance,unsupported_method,missing_required_header";

#[tokio::test]
async fn every_answer_is_one_that_the_document_describes() {
    let server = Server::start().await;
    server.create_topic("orders", json!({"partitions": 2})).await;
    // The document's examples name these records.
    for partition in 0..2 {
        server
            .post(&format!("/v1/topics/orders/records?partition={partition}"))
            .body("hello")
            .await
            .expect(201);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi");
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let scratch = tempfile::tempdir().expect("the temporary folder can be written");
    let output = Command::new(folder.join("../.tools/venv/bin/schemathesis"))
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url())])
        .args(["--checks", CHECKS, "--request-timeout", "40", "--no-color"])
        .args(["--max-examples", &setting("SCHEMATHESIS_EXAMPLES", EXAMPLES)])
        .args(["--seed", &setting("SCHEMATHESIS_SEED", SEED)])
        .env("PYTHONPATH", &folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("tests/run installs schemathesis");
    let report = String::from_utf8_lossy(&output.stdout);
    eprintln!("{report}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    server.get("/readyz").await.expect(200);
}
