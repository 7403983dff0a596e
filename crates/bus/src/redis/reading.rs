//! Reads logs in shared pipelines. Reads that are requested while a pipeline is in flight join the next one. After a
//! reconnect, when every lane reads its log, thousands of lanes therefore need only a few round trips.

use super::{Inner, link::Link};
use crate::{
    BusError, CatchUp, Counters,
    open_lane::{OpenLane, PageEnd},
};
use protocol::{GapPolicy, Position, Prefix, ReadStart, SessionId};
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Number of reads that may wait before their callers wait.
const QUEUE: usize = 1024;
/// Largest number of lanes in one pipeline.
const LANES: usize = 256;
/// Largest number of events that one pipeline asks for, unless a single lane asks for more.
const EVENTS: usize = 4096;

/// A request for one page.
pub(super) struct Read {
    session: SessionId,
    lane: Arc<OpenLane>,
    limit: usize,
    done: oneshot::Sender<Result<CatchUp, BusError>>,
}

/// The queue of requests.
pub(super) struct Reading(mpsc::Sender<Read>);

impl Reading {
    pub(super) fn new() -> (Self, mpsc::Receiver<Read>) {
        let (queue, reads) = mpsc::channel(QUEUE);
        (Self(queue), reads)
    }

    /// Reads one page for a lane.
    pub(super) async fn page(
        &self,
        session: SessionId,
        lane: Arc<OpenLane>,
        limit: usize,
    ) -> Result<CatchUp, BusError> {
        let ended = |()| BusError::Unreachable("the bus was closed".to_owned());
        let (done, outcome) = oneshot::channel();
        let read = Read { session, lane, limit: limit.max(1), done };
        self.0.send(read).await.map_err(|_| ended(()))?;
        outcome.await.map_err(|_| ended(()))?
    }
}

/// Sends the pipelines one after the other, forever. Requests that arrive meanwhile form the next pipeline.
pub(super) async fn run(inner: Arc<Inner>, mut reads: mpsc::Receiver<Read>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(read) => read,
            None => match reads.recv().await {
                Some(read) => read,
                None => return,
            },
        };
        let mut events = first.limit;
        let mut batch = vec![first];
        while batch.len() < LANES {
            let Ok(read) = reads.try_recv() else { break };
            if events + read.limit > EVENTS {
                next = Some(read);
                break;
            }
            events += read.limit;
            batch.push(read);
        }
        // A caller that was cancelled closes its socket, so its page is not needed.
        batch.retain(|read| !read.done.is_closed());
        if batch.is_empty() {
            continue;
        }
        let outcome = match inner.commands.connection() {
            Ok(mut connection) => read_all(&inner, &mut connection, &mut batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            for read in batch {
                let _ = read.done.send(Err(error.clone()));
            }
        }
    }
}

/// Reads a page for each lane in one pipeline. Removes from the batch the requests that it has answered.
async fn read_all(
    inner: &Inner,
    connection: &mut MultiplexedConnection,
    batch: &mut Vec<Read>,
) -> Result<(), BusError> {
    let gaps = inner.gaps();
    let mut pipeline = Pipeline::with_capacity(2 * batch.len() + 1);
    pipeline.cmd("GET").arg(inner.incarnation.mark_key());
    let begun: Vec<(Position, ReadStart, bool)> =
        batch.iter().map(|read| ask(inner, &mut pipeline, read)).collect();
    let answers = connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| Link::failed(&error))?;
    let mut answers = answers.into_iter();
    let mark = answers.next().ok_or_else(missing)?.extract_error().map_err(|error| Link::failed(&error))?;
    let mark = if let Value::BulkString(mark) = &mark { Some(&mark[..]) } else { None };
    let gaps = if inner.incarnation.check_mark(mark) { gaps } else { GapPolicy::Wait };
    for (read, (_, read_start, reads_top)) in batch.drain(..).zip(begun) {
        let page = answers.next().ok_or_else(missing);
        let top = if reads_top { Some(answers.next().ok_or_else(missing)) } else { None };
        let outcome = page.and_then(|page| {
            let top = top.transpose()?.map(|top| top_of(&top));
            deliver(inner, &read, read_start, page, top, gaps)
        });
        let _ = read.done.send(outcome);
    }
    Ok(())
}

fn missing() -> BusError {
    BusError::Refused("ERR a reply of a pipeline is missing".to_owned())
}

/// Adds a lane's commands to the pipeline. Returns where its read begins, and whether it also reads the log's last
/// entry.
fn ask(inner: &Inner, pipeline: &mut Pipeline, read: &Read) -> (Position, ReadStart, bool) {
    let (last, read_start) = read.lane.begin_read();
    let log = inner.names.log(read.session);
    let range = pipeline.cmd("XRANGE").arg(&log);
    range.arg(format!("({last}")).arg("+").arg("COUNT").arg(read.limit);
    let reads_top = read.lane.is_start_unconfirmed();
    if reads_top {
        pipeline.cmd("XREVRANGE").arg(log).arg("+").arg("-").arg("COUNT").arg(1);
    }
    (last, read_start, reads_top)
}

/// Delivers a page to its lane.
fn deliver(
    inner: &Inner,
    read: &Read,
    read_start: ReadStart,
    page: Value,
    top: Option<Position>,
    gaps: GapPolicy,
) -> Result<CatchUp, BusError> {
    let page = page.extract_error().map_err(|error| Link::failed(&error))?;
    let entries: Vec<Value> =
        redis::from_redis_value(page).map_err(|error| BusError::Refused(error.to_string()))?;
    if let Some(top) = top
        && read.lane.waits_for_start(top, gaps)
    {
        return Ok(CatchUp::Wait);
    }
    let mut end = if entries.len() < read.limit { PageEnd::EndOfLog } else { PageEnd::Full };
    for entry in &entries {
        match logged_frame(entry).and_then(|frame| Some((Prefix::parse(frame)?, frame))) {
            Some((prefix, frame)) => {
                if !read.lane.logged(prefix, frame, gaps) {
                    end = PageEnd::Hole;
                    break;
                }
            }
            None => Counters::add(&inner.counters.malformed, 1),
        }
    }
    Ok(read.lane.end_read(read_start, end, gaps))
}

/// Returns the frame in one entry of an XRANGE reply: `[id, [field, frame]]`.
fn logged_frame(entry: &Value) -> Option<&[u8]> {
    let Value::Array(entry) = entry else { return None };
    let Some(Value::Array(fields)) = entry.get(1) else { return None };
    match fields.get(1) {
        Some(Value::BulkString(frame)) => Some(frame),
        _ => None,
    }
}

/// Returns the position in an XREVRANGE reply; zero for an empty log.
fn top_of(answer: &Value) -> Position {
    let Value::Array(entries) = answer else { return Position::ZERO };
    let Some(Value::Array(entry)) = entries.first() else { return Position::ZERO };
    match entry.first() {
        Some(Value::BulkString(id)) => Position::from_ascii(id).unwrap_or(Position::ZERO),
        _ => Position::ZERO,
    }
}
