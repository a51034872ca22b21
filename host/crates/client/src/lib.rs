//! Client library: route table, retries and streaming.
