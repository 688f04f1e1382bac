//! The store on S3: a correct and a faulty server in this process, SeaweedFS, and any server that the environment names.
//!
//! `FOREBAY_TEST_S3_ENDPOINT` names another server to test instead of SeaweedFS, with `FOREBAY_TEST_S3_BUCKET`,
//! `AWS_REGION` and the usual credentials, and `FOREBAY_TEST_S3_PATH_STYLE=1` if the bucket has to be named in the path;
//! everything is written below a prefix of its own, and stays there.

mod commands;
mod contract;
