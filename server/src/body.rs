//! Reads the body of a request. Its size, its time and the memory of all bodies are bounded.

use crate::error::ApiError;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use guard::{Budget, Room};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// The largest body of a request, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Reads a body within `limit`. Bytes are taken from `budget` as they arrive and returned when the body is complete, because a query keeps
/// little of it.
///
/// # Errors
/// The body is too large or too slow, or the budget is used up.
pub(crate) async fn read(body: Body, budget: &Arc<Budget>, limit: Duration) -> Result<Bytes, ApiError> {
    let reading = read_all(body, Room::new(budget.clone()));
    timeout(limit, reading).await.map_err(|_| ApiError::SlowBody)?
}

async fn read_all(body: Body, mut room: Room) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| ApiError::Invalid(format!("the body could not be read: {error}")))?;
        let len = whole.len() + part.len();
        if len > MAX_BODY_BYTES {
            return Err(ApiError::TooLarge(MAX_BODY_BYTES));
        }
        if !room.grow(len) {
            return Err(ApiError::NoRoom);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}
