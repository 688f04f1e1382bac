//! The HTTP API as clients see it: the real binary, one server per test, every claim checked from outside.

mod access_log;
mod caching;
mod cloudevents;
mod conditional;
mod cors;
mod cursors;
mod errors;
mod idempotency;
mod limits;
mod operations;
mod produce;
mod producer;
mod read;
mod records;
mod sse;
mod topics;
mod tour;
mod truncate;
