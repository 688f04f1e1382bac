//! `forebay bucket init`: makes a bucket fit for the log. Only here is the vendor's SDK used; a node does without it.
//!
//! Each step looks first and changes what is missing, so that it can be repeated, and a dry run is the same without the
//! changes. A server that does not know a call gets a warning: not all that speak S3 have settings of buckets.

mod client;
mod lifecycle;

use anyhow::bail;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration,
    PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use forebay_log::store::StoreUrl;

use crate::config::Config;
use crate::report::Report;

use client::Refusal;

/// Where a bucket is made that names no other place.
const REGION_DEFAULT: &str = "us-east-1";

/// Sets up the bucket of a store on S3. What it does, or would do, is in the report.
///
/// # Errors
/// A store elsewhere has no bucket. What a server refuses is in the report.
///
/// # Cost
/// About ten requests.
pub async fn init(config: &Config, dry_run: bool) -> anyhow::Result<Report> {
    let StoreUrl::S3 { bucket, .. } = &config.store else {
        bail!("the store {} has no bucket: --store s3://BUCKET/PREFIX names one", config.store);
    };
    let region = client::region(&config.s3);
    let client = client::open(&config.s3, bucket, &region).await;
    let prefix = config.store.prefix().to_owned();
    let setup = Setup { client, bucket: bucket.clone(), prefix, region, dry_run };
    let mut report = Report::default();
    if !setup.exists(&mut report).await {
        return Ok(report);
    }
    setup.public_access(&mut report).await;
    setup.encryption(&mut report).await;
    setup.versioning(&mut report).await;
    setup.lifecycle(&mut report).await;
    Ok(report)
}

/// One set-up of one bucket.
#[derive(Debug)]
struct Setup {
    client: Client,
    bucket: String,
    /// Below it the log is kept; empty for the whole bucket.
    prefix: String,
    region: String,
    dry_run: bool,
}

impl Setup {
    /// Makes the bucket if it is missing. Tells whether it is there now.
    async fn exists(&self, report: &mut Report) -> bool {
        let found = self.client.head_bucket().bucket(&self.bucket).send().await;
        let refusal = match found.map_err(Refusal::of) {
            Ok(_) => {
                report.ok("bucket", format!("{} is there", self.bucket));
                return true;
            }
            Err(refusal) => refusal,
        };
        match refusal.status {
            Some(404) => {}
            Some(403) => {
                report.fail("bucket", format!("no access to {}; is it somebody else's?", self.bucket));
                return false;
            }
            Some(301) => {
                report.fail("bucket", format!("{} is in another region than {}", self.bucket, self.region));
                return false;
            }
            _ => {
                report.fail("bucket", refusal.text);
                return false;
            }
        }
        if self.dry_run {
            report.ok("bucket", format!("would make {} in {}", self.bucket, self.region));
            report.ok("settings", "would block public access, encrypt, and abort unfinished uploads");
            return false;
        }
        let made = self.make().await;
        let is_there = made.is_ok();
        self.tell(report, "bucket", &format!("made {} in {}", self.bucket, self.region), made);
        is_there
    }

    async fn make(&self) -> Result<(), Refusal> {
        // The default region is the one that may not be named.
        let place = (self.region != REGION_DEFAULT).then(|| {
            let region = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let making = self.client.create_bucket().bucket(&self.bucket).set_create_bucket_configuration(place);
        match making.send().await.map_err(Refusal::of) {
            Err(refusal) if refusal.is(&["BucketAlreadyOwnedByYou"]) => Ok(()),
            made => made.map(drop),
        }
    }

    /// Closes the bucket to the public, whatever policies and access lists say.
    async fn public_access(&self, report: &mut Report) {
        const NAME: &str = "public-access";
        let found = self.client.get_public_access_block().bucket(&self.bucket).send().await;
        match found.map_err(Refusal::of) {
            Ok(found) => {
                let blocked = found.public_access_block_configuration.is_some_and(|block| {
                    let all = [
                        block.block_public_acls,
                        block.ignore_public_acls,
                        block.block_public_policy,
                        block.restrict_public_buckets,
                    ];
                    all.iter().all(|one| *one == Some(true))
                });
                if blocked {
                    return report.ok(NAME, "is blocked");
                }
            }
            Err(refusal) if refusal.is(&["NoSuchPublicAccessBlockConfiguration"]) => {}
            Err(refusal) => return self.tell(report, NAME, "", Err(refusal)),
        }
        if self.would(report, NAME, "block it") {
            return;
        }
        let all = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let call =
            self.client.put_public_access_block().bucket(&self.bucket).public_access_block_configuration(all);
        let done = call.send().await.map(drop).map_err(Refusal::of);
        self.tell(report, NAME, "blocked now", done);
    }

    /// Has objects encrypted, unless they are already, be it with somebody's own keys.
    async fn encryption(&self, report: &mut Report) {
        const NAME: &str = "encryption";
        let found = self.client.get_bucket_encryption().bucket(&self.bucket).send().await;
        match found.map_err(Refusal::of) {
            Ok(found) => {
                let rules =
                    found.server_side_encryption_configuration.map(|all| all.rules).unwrap_or_default();
                let defaults =
                    rules.into_iter().find_map(|rule| rule.apply_server_side_encryption_by_default);
                if let Some(by_default) = defaults {
                    return report.ok(NAME, format!("by default {}", by_default.sse_algorithm));
                }
            }
            Err(refusal) if refusal.is(&["ServerSideEncryptionConfigurationNotFoundError"]) => {}
            Err(refusal) => return self.tell(report, NAME, "", Err(refusal)),
        }
        if self.would(report, NAME, "encrypt with keys of S3 (AES256)") {
            return;
        }
        let done = match sse_s3() {
            Ok(wanted) => {
                let call = self.client.put_bucket_encryption().bucket(&self.bucket);
                let call = call.server_side_encryption_configuration(wanted);
                call.send().await.map(drop).map_err(Refusal::of)
            }
            Err(error) => Err(Refusal::of_text(error.to_string())),
        };
        self.tell(report, NAME, "by default AES256 now", done);
    }

    /// Warns of versions, which keep what was deleted.
    async fn versioning(&self, report: &mut Report) {
        const NAME: &str = "versioning";
        let found = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        match found.map_err(Refusal::of) {
            Ok(found) if found.status == Some(BucketVersioningStatus::Enabled) => report.warn(
                NAME,
                "is on: everything that is deleted stays and costs; suspend it, or let a lifecycle rule expire \
                 noncurrent versions",
            ),
            Ok(_) => report.ok(NAME, "is off"),
            Err(refusal) => self.tell(report, NAME, "", Err(refusal)),
        }
    }

    /// In a dry run, says what would be done.
    fn would(&self, report: &mut Report, name: &'static str, what: &str) -> bool {
        if self.dry_run {
            report.ok(name, format!("would {what}"));
        }
        self.dry_run
    }

    fn tell(&self, report: &mut Report, name: &'static str, done: &str, outcome: Result<(), Refusal>) {
        match outcome {
            Ok(()) => report.ok(name, done),
            Err(refusal) if refusal.is_unsupported() => {
                report.warn(name, format!("this server cannot do it: {}", refusal.text));
            }
            Err(refusal) => report.fail(name, refusal.text),
        }
    }
}

fn sse_s3() -> Result<ServerSideEncryptionConfiguration, aws_sdk_s3::error::BuildError> {
    let keys =
        ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256).build()?;
    let rule = ServerSideEncryptionRule::builder().apply_server_side_encryption_by_default(keys).build();
    ServerSideEncryptionConfiguration::builder().rules(rule).build()
}
