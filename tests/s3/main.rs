//! The store on S3: a correct and a faulty server in this process, SeaweedFS, and any server that the environment names.
//!
//! `FOREBAY_TEST_S3_ENDPOINT` names another server to test, with `FOREBAY_TEST_S3_BUCKET`, `AWS_REGION` and the usual
//! credentials; everything is written below a prefix of its own, and stays there.

mod commands;
mod contract;
