//! The one table from errors of the inside to problems on the wire. What is not named here stays inside.

use forebay_log::error::{ErrorKind, Outcome};
use forebay_log::model::TopicName;
use forebay_log::shard::{AppendError, FetchError, TruncateError};

use crate::cursor::Cursor;
use crate::fetch::ReadError;
use crate::http::problem::{Code, Effect, Problem};
use crate::limits;
use crate::produce::ProduceError;
use crate::topics::TopicsError;

/// Answers a topic that does not exist.
pub(super) fn topic_not_found(name: &TopicName) -> Problem {
    Problem::new(Code::TopicNotFound, format!("topic does not exist: topic={name}"))
        .with("topic", name.as_str())
}

/// Answers a partition that the topic does not have.
pub(super) fn partition_not_found(partition: u16, partitions: u16) -> Problem {
    let detail = format!("partition does not exist: partition={partition} partitions={partitions}");
    Problem::new(Code::PartitionNotFound, detail).with("partitions", partitions)
}

/// Logs what must not leave the process and answers without it.
fn hidden(code: Code, detail: &str, error: &dyn std::error::Error) -> Problem {
    let mut causes = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        causes = format!("{causes}: {cause}");
        source = cause.source();
    }
    tracing::error!(code = code.as_str(), error = %causes, "request failed");
    Problem::new(code, detail)
}

impl From<TopicsError> for Problem {
    fn from(error: TopicsError) -> Self {
        match &error {
            TopicsError::NotFound { name } => topic_not_found(name),
            TopicsError::Exists { setting, .. } => {
                Self::new(Code::TopicExists, error.to_string()).with("setting", setting.as_str())
            }
            TopicsError::Settings(detail) => Self::new(Code::InvalidConfig, detail.as_str()),
            TopicsError::Version { current } => {
                Self::new(Code::PreconditionFailed, error.to_string()).with("etag", current.etag())
            }
            TopicsError::Full => Self::new(Code::QuotaExceeded, error.to_string()),
            TopicsError::Store(_) => {
                let effect = Effect::Unknown;
                hidden(Code::StorageUnavailable, "the store does not answer", &error).with_effect(effect)
            }
            TopicsError::Contended => {
                hidden(Code::StorageUnavailable, "others change topics all the time", &error)
            }
            TopicsError::Stale => Self::new(Code::StorageUnavailable, error.to_string()),
            TopicsError::Overloaded => Self::new(Code::Overloaded, error.to_string()),
            TopicsError::Format(_) | TopicsError::WentBack { .. } => {
                hidden(Code::Internal, "the register of topics cannot be used", &error)
            }
        }
    }
}

impl From<ProduceError> for Problem {
    fn from(error: ProduceError) -> Self {
        let effect = match (&error, error.outcome()) {
            (_, Outcome::Unknown) => Effect::Unknown,
            (ProduceError::Partly(_), Outcome::NotApplied) => Effect::Partial,
            (_, Outcome::NotApplied) => Effect::None,
        };
        let text = error.to_string();
        let problem = match &error {
            ProduceError::RecordTooLarge { limit, .. } => {
                Self::new(Code::TooLarge, text).with("limit", *limit).with_kafka_error("MESSAGE_TOO_LARGE")
            }
            ProduceError::KeyMissing { .. } => {
                Self::new(Code::BadParameter, text).with_kafka_error("INVALID_RECORD")
            }
            ProduceError::TimestampAhead { .. } => {
                Self::new(Code::BadParameter, text).with_kafka_error("INVALID_TIMESTAMP")
            }
            ProduceError::Partition { partition, partitions, .. } => {
                partition_not_found(*partition, *partitions)
            }
            ProduceError::OtherPartition { .. } | ProduceError::SeveralPartitions { .. } => {
                Self::new(Code::BadParameter, text).with("parameter", "partition")
            }
            ProduceError::Append(error) | ProduceError::Partly(error) => append_problem(error),
            ProduceError::Encode(_) => hidden(Code::Internal, "the records cannot be stored", &error),
        };
        problem.with_effect(effect)
    }
}

fn append_problem(error: &AppendError) -> Problem {
    let text = error.to_string();
    match error {
        AppendError::Overloaded => Problem::new(Code::Overloaded, text),
        AppendError::Expected { current, .. } => {
            let current = current.get();
            Problem::new(Code::PreconditionFailed, text).with("next_offset", current)
        }
        AppendError::Mismatch => {
            let detail = "the idempotency key, or the sequence of the producer, was used for another body";
            Problem::new(Code::IdempotencyMismatch, detail)
        }
        AppendError::SequenceGap { expected } => {
            Problem::new(Code::SequenceGap, text).with("expected_sequence", *expected)
        }
        AppendError::ProducerFenced { current } => {
            Problem::new(Code::ProducerFenced, text).with("current_epoch", *current)
        }
        AppendError::InProgress => {
            Problem::new(Code::InProgress, text).with_retry_after(limits::IN_PROGRESS_RETRY_AFTER)
        }
        AppendError::TimedOut => Problem::new(Code::StorageUnavailable, text),
        AppendError::TooLarge { limit, .. } => Problem::new(Code::TooLarge, text).with("limit", *limit),
        AppendError::Empty => Problem::new(Code::BadParameter, "the request holds no record"),
        AppendError::TopicGone => Problem::new(Code::TopicNotFound, "the topic was deleted"),
        AppendError::NoLeader { .. } => Problem::new(Code::NoLeader, "the partition has no leader now"),
        AppendError::Draining => Problem::new(Code::Draining, "the node is stopping"),
    }
}

impl From<TruncateError> for Problem {
    fn from(error: TruncateError) -> Self {
        let effect = match error.outcome() {
            Outcome::NotApplied => Effect::None,
            Outcome::Unknown => Effect::Unknown,
        };
        let problem = match &error {
            TruncateError::AboveHighWatermark { partition, high_watermark } => {
                let problem = Self::new(Code::BadParameter, error.to_string());
                let problem = problem.with("partition", partition.partition.get());
                problem.with("high_watermark", high_watermark.get()).with_kafka_error("OFFSET_OUT_OF_RANGE")
            }
            TruncateError::NoLeader => Self::new(Code::NoLeader, "the partition has no leader now"),
            TruncateError::Full(_) => hidden(Code::Internal, "the log starts cannot be stored", &error),
            _ if error.kind() == ErrorKind::Corrupt => {
                hidden(Code::Internal, "the shard's manifest cannot be used", &error)
            }
            _ => hidden(Code::StorageUnavailable, "the store does not answer", &error),
        };
        problem.with_effect(effect)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Expired { topic, earliest } => {
                let detail = format!("the place is below the log start: topic={topic}");
                gone(Code::CursorExpired, detail, topic, earliest)
            }
            ReadError::TopicRecreated { topic, earliest } => {
                gone(Code::TopicRecreated, error.to_string(), topic, earliest)
            }
            ReadError::TopicGone { topic } => topic_not_found(topic),
            ReadError::Fetch(fetch) => fetch_problem(fetch),
        }
    }
}

/// Answers a place that is no longer there, with the earliest that is for the same read.
fn gone(code: Code, detail: String, topic: &TopicName, earliest: &Cursor) -> Problem {
    Problem::new(code, detail).with("topic", topic.as_str()).with("earliest", earliest.to_string())
}

/// Answers a fetch that failed.
pub(super) fn fetch_problem(error: &FetchError) -> Problem {
    match error.kind() {
        ErrorKind::NotFound => Problem::new(Code::CursorExpired, error.to_string()),
        ErrorKind::Corrupt => hidden(Code::Internal, "a stored record is damaged", error),
        _ => hidden(Code::StorageUnavailable, "the store does not answer", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_retry_may_conclude_is_said() {
        let said = |error: AppendError| {
            let problem = Problem::from(ProduceError::Append(error));
            (problem.status.as_u16(), problem.code.as_str(), problem.effect, problem.retryable)
        };
        let in_progress = Problem::from(ProduceError::Append(AppendError::InProgress));
        assert!(in_progress.retry_after.is_some());
        assert_eq!(said(AppendError::InProgress), (409, "in-progress", Effect::Unknown, true));
        assert_eq!(said(AppendError::TimedOut), (503, "storage-unavailable", Effect::Unknown, true));
        assert_eq!(said(AppendError::Mismatch), (422, "idempotency-mismatch", Effect::None, false));
        let gap = AppendError::SequenceGap { expected: 7 };
        assert_eq!(said(gap), (409, "sequence-gap", Effect::None, false));
        let fenced = AppendError::ProducerFenced { current: 2 };
        assert_eq!(said(fenced), (403, "producer-fenced", Effect::None, false));
        let partly = Problem::from(ProduceError::Partly(AppendError::Mismatch));
        assert_eq!(partly.effect, Effect::Partial);
    }
}
