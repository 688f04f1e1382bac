//! The SDK's client, reaching the bucket as a node's own client does, and its errors in few words.

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use forebay_log::limits as log_limits;
use forebay_log::store::S3Options;

use super::REGION_DEFAULT;
use crate::limits;
use crate::report::causes;

/// Returns the region that a node would use.
pub(super) fn region(options: &S3Options) -> String {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    let from_environment =
        || named.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    options.region.clone().or_else(from_environment).unwrap_or_else(|| REGION_DEFAULT.to_owned())
}

/// Prepares a client; credentials come from the usual chain.
pub(super) async fn open(options: &S3Options, bucket: &str, region: &str) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(log_limits::S3_CONNECT_MAX)
        .operation_timeout(limits::BUCKET_CALL_MAX)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(region.to_owned()))
        .timeout_config(timeouts);
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint.to_string());
    }
    let shared = Box::pin(loader.load()).await;
    let config =
        aws_sdk_s3::config::Builder::from(&shared).force_path_style(options.names_bucket_in_path(bucket));
    Client::from_conf(config.build())
}

/// Why a server did not do what it was asked.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The status of its answer, if it answered.
    pub(super) status: Option<u16>,
    code: Option<String>,
    /// In words.
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let text = match (&code, error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.clone(),
            _ if matches!(status, Some(200..=299)) => "what it answers is not about this".to_owned(),
            _ => causes(&error),
        };
        Self { status, code, text }
    }

    pub(super) fn of_text(text: String) -> Self {
        Self { status: None, code: None, text }
    }

    /// Tells whether the server gave one of these reasons.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Tells whether the server does not know the call. Some say so; others answer with success and something else, a
    /// listing for example.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.status, Some(200..=299 | 405 | 501)) || self.is(&["NotImplemented", "MethodNotAllowed"])
    }
}
