//! The paths of the API.

pub(super) const TOPICS: &str = "/v1/topics";
pub(super) const TOPIC: &str = "/v1/topics/{topic}";
pub(super) const PARTITIONS: &str = "/v1/topics/{topic}/partitions";
pub(super) const OFFSETS: &str = "/v1/topics/{topic}/offsets";
pub(super) const TRUNCATE: &str = "/v1/topics/{topic}/truncate";
pub(super) const RECORDS: &str = "/v1/topics/{topic}/records";
pub(super) const PARTITION_RECORDS: &str = "/v1/topics/{topic}/partitions/{partition}/records";
pub(super) const RECORD: &str = "/v1/topics/{topic}/partitions/{partition}/records/{offset}";
pub(super) const MANY_RECORDS: &str = "/v1/records";
