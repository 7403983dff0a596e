//! A part of a run's results: what one generator measured since its previous part. Parts of all generators, merged in any order,
//! are the results of the run.

use super::{GeneratorReport, Interval, RunData};
use plan::schedule::Amendment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one generator measured since its previous part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// The generator has sent everything that belongs to the seconds of the run before this one.
    pub reached: u64,
    /// Measurements by second of the run, from 0.
    pub seconds: BTreeMap<u64, Interval>,
    /// Sums over the sessions and queries that ended. Without distributions: those are in `seconds`.
    pub sums: RunData,
}

/// What a generator says first: which run, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorHeader {
    /// Name of the run, the same for all its generators.
    pub run_id: String,
    /// Fingerprint of the plan. Generators with different fingerprints do not belong to one run.
    pub fingerprint: String,
    /// Index of the shard, from 0.
    pub shard: u32,
    /// Number of shards.
    pub generators: u32,
    /// Options of the run as TOML, without secrets.
    pub options: String,
    /// Start of the run, in seconds since 1970.
    pub started_at: i64,
    /// Offset of the local time from UTC, in seconds.
    pub utc_offset: i32,
}

/// A message of a generator: its header, then its parts and the amendments that it made, then its report.
#[derive(Clone, Debug, Deserialize)]
pub enum GeneratorMessage {
    /// The first message.
    Header(GeneratorHeader),
    /// What it measured since its previous part.
    Part(Box<Part>),
    /// The last message.
    Report(Box<GeneratorReport>),
    /// It changed its plan. Comes before the parts with the seconds that the change concerns.
    Amendment(Amendment),
}

/// The reason why bytes are not a message of a generator.
#[derive(Debug, thiserror::Error)]
#[error(
    "results of a generator cannot be read ({0}): they are damaged, or were written by another version of streamstress"
)]
pub struct InvalidMessage(#[from] postcard::Error);

/// A message that is written without copying its contents. The variants are those of [`GeneratorMessage`].
#[derive(Serialize)]
enum WrittenMessage<'a> {
    Header(&'a GeneratorHeader),
    Part(&'a Part),
    Report(&'a GeneratorReport),
    Amendment(&'a Amendment),
}

impl WrittenMessage<'_> {
    /// Returns the message as bytes. The format is that of this version only.
    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a message contains only what can be written")
    }
}

impl GeneratorHeader {
    /// Returns the header as the bytes of a [`GeneratorMessage`].
    #[must_use]
    pub fn to_message(&self) -> Vec<u8> {
        WrittenMessage::Header(self).to_bytes()
    }
}

impl Part {
    /// Returns the part as the bytes of a [`GeneratorMessage`].
    #[must_use]
    pub fn to_message(&self) -> Vec<u8> {
        WrittenMessage::Part(self).to_bytes()
    }
}

impl GeneratorReport {
    /// Returns the report as the bytes of a [`GeneratorMessage`].
    #[must_use]
    pub fn to_message(&self) -> Vec<u8> {
        WrittenMessage::Report(self).to_bytes()
    }
}

impl GeneratorMessage {
    /// Returns an amendment as the bytes of a message.
    #[must_use]
    pub fn of_amendment(amendment: &Amendment) -> Vec<u8> {
        WrittenMessage::Amendment(amendment).to_bytes()
    }

    /// Reads a message from bytes.
    ///
    /// # Errors
    /// The bytes are not a message of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Metric, QuerySamples,
        contents::ContentStatus,
        defects::Defect,
        record::{
            Failure, FailureKind, LossCause, Moment, QueryRecord, QueryStatus, Reconnect, SessionRecord,
        },
        timeline::{NoteEvent, Notes, QueryTimeline},
    };
    use proptest::{collection::vec, prelude::*};
    use std::time::Duration;

    /// What a generator measured: an ended query, an ended session, or a sample of a metric at a second.
    #[derive(Clone, Debug)]
    enum Measured {
        Query(Box<QueryRecord>),
        Session(Box<SessionRecord>),
        Sample(u64, usize, i64),
        Active(u64, u64, u64),
    }

    fn moment() -> impl Strategy<Value = Moment> {
        (0u64..5_000).prop_map(Duration::from_millis)
    }

    fn failure() -> impl Strategy<Value = Option<Failure>> {
        let kinds =
            prop_oneof![Just(FailureKind::Run), Just(FailureKind::Timeout), Just(FailureKind::Closed(1011))];
        prop::option::of(
            (kinds, prop::option::of(400u16..403), "[a-c]{1,2}").prop_map(|(kind, code, message)| Failure {
                kind,
                code,
                message,
            }),
        )
    }

    fn status() -> impl Strategy<Value = QueryStatus> {
        prop_oneof![
            Just(QueryStatus::Ok),
            Just(QueryStatus::Incomplete),
            Just(QueryStatus::Error),
            Just(QueryStatus::Abandoned)
        ]
    }

    fn query() -> impl Strategy<Value = Measured> {
        let texts = (failure(), prop::option::of("[a-z]{1,2}"), prop::option::of("[a-z]{1,3}"));
        (status(), moment(), moment(), 0u64..20, prop::option::of(moment()), texts).prop_map(
            |(status, sent, ended, session_index, longest_gap, (failure, error_code, frame))| {
                let mut query =
                    QueryRecord { sent: Some(sent), ended, session_index, ..QueryRecord::sample(status) };
                (query.longest_gap, query.failure, query.error_code) = (longest_gap, failure, error_code);
                query.contents = ContentStatus::Verified;
                if let Some(frame) = frame {
                    query.defects.note(Defect::Foreign, frame.as_bytes());
                }
                Measured::Query(Box::new(query))
            },
        )
    }

    fn session() -> impl Strategy<Value = Measured> {
        (moment(), moment(), any::<bool>(), failure(), vec((moment(), 1000u16..1004), 0..3)).prop_map(
            |(started, ended, ok, failure, losses)| {
                let mut session = SessionRecord { started, ended, ok, failure, ..SessionRecord::sample() };
                session.close_codes = losses.iter().map(|(_, code)| *code).collect();
                session.reconnects = losses
                    .iter()
                    .map(|&(gap, code)| Reconnect { gap, cause: LossCause::Closed(code) })
                    .collect();
                Measured::Session(Box::new(session))
            },
        )
    }

    fn measured() -> impl Strategy<Value = Measured> {
        prop_oneof![
            query(),
            session(),
            (0u64..5, 0..Metric::COUNT, any::<i64>()).prop_map(|(second, metric, ns)| Measured::Sample(
                second,
                metric,
                ns / 1024
            )),
            (0u64..5, 0u64..9, 0u64..9)
                .prop_map(|(second, sessions, queries)| Measured::Active(second, sessions, queries)),
        ]
    }

    impl Part {
        fn add(&mut self, measured: &Measured) {
            match measured {
                Measured::Query(query) => {
                    self.sums.add_query(query);
                    let interval = self.seconds.entry(query.ended.as_secs()).or_default();
                    interval.query_ended(query, &[]);
                }
                Measured::Session(session) => self.sums.add_session(session, &[]),
                Measured::Sample(second, metric, ns) => {
                    self.seconds.entry(*second).or_default().record(Metric::ALL[*metric], *ns);
                }
                Measured::Active(second, sessions, queries) => {
                    self.seconds.entry(*second).or_default().active(*sessions, *queries);
                }
            }
        }
    }

    /// Returns the results that parts give: distributions and counts of the run and of each second, and all other figures as text.
    fn results<'a>(parts: impl IntoIterator<Item = &'a Part>) -> (Interval, BTreeMap<u64, Interval>, String) {
        let (mut run, mut seconds) = (RunData::default(), BTreeMap::<u64, Interval>::new());
        for part in parts {
            run.merge(&part.sums);
            for (second, interval) in &part.seconds {
                run.metrics.merge(interval);
                seconds.entry(*second).or_default().merge(interval);
            }
        }
        let metrics = std::mem::take(&mut run.metrics);
        (metrics, seconds, format!("{run:?}"))
    }

    #[test]
    fn header_and_report_come_back() {
        let header = GeneratorHeader {
            run_id: "nightly".into(),
            fingerprint: "0f".into(),
            shard: 1,
            generators: 4,
            options: "clients = 5".into(),
            started_at: 1_795_214_709,
            utc_offset: -3_600,
        };
        let read = GeneratorMessage::from_bytes(&header.to_message());
        assert!(matches!(read, Ok(GeneratorMessage::Header(read)) if read == header));
        let report = GeneratorReport { host: "here".into(), clock_steps: 3, ..GeneratorReport::default() };
        let read = GeneratorMessage::from_bytes(&report.to_message());
        assert!(matches!(read, Ok(GeneratorMessage::Report(read)) if *read == report));
    }

    #[test]
    fn timelines_come_back() {
        let (mut part, mut samples) = (Part::default(), QuerySamples::default());
        samples.token(Some(4), || Duration::from_millis(7));
        samples.delivery(1_000, true);
        for (index, status) in [QueryStatus::Ok, QueryStatus::Timeout].into_iter().enumerate() {
            let record = QueryRecord { session_index: index as u64, ..QueryRecord::sample(status) };
            let mut notes = Notes::default();
            notes.add(Duration::ZERO, NoteEvent::SocketLost(LossCause::Closed(1011), "gone".into()));
            part.sums.timelines.add(QueryTimeline::new(&record, &samples, &[], notes));
        }
        let (read, written) = (sent(&part).sums.timelines, &part.sums.timelines);
        assert!(read.slowest().eq(written.slowest()) && read.broken().eq(written.broken()));
        assert_eq!((read.slowest().count(), read.broken().count()), (1, 1));
        assert_eq!(read.broken().next().unwrap().tokens_in_order()[0].seq, 4);
    }

    /// Returns the part as the leader receives it.
    fn sent(part: &Part) -> Part {
        match GeneratorMessage::from_bytes(&part.to_message()) {
            Ok(GeneratorMessage::Part(part)) => *part,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn parts_of_many_generators_in_any_order_are_those_of_one(
            all in vec((measured(), 0usize..4, 0usize..3), 0..120), reverse in any::<bool>(),
        ) {
            let mut alone = Part::default();
            let mut parts: Vec<Part> = vec![Part::default(); 12];
            for (measured, generator, number) in &all {
                alone.add(measured);
                parts[generator * 3 + number].add(measured);
            }
            let mut sent: Vec<Part> =
                parts.iter().map(sent).collect();
            if reverse {
                sent.reverse();
            }
            let (expected, merged) = (results([&alone]), results(&sent));
            prop_assert_eq!(&expected.2, &merged.2);
            prop_assert!(expected == merged, "distributions or counts of a second differ");
        }

        #[test]
        fn damaged_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let _ = GeneratorMessage::from_bytes(&bytes);
            let mut part = Part::default();
            part.add(&Measured::Sample(1, 0, 5_000_000));
            bytes = part.to_message();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = GeneratorMessage::from_bytes(&bytes);
        }
    }
}
