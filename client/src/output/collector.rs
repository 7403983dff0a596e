//! The thread behind the recorders: sums up what they hand over and writes rows as they come.
//! It holds sums and a few seconds of histograms, whatever the length of the run.

use super::{csv_rows, files::Files};
use crate::measure::{Gauge, Parcel, RunData};
use std::{
    fs::File,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

/// How often rows reach the disk.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Collector {
    run: RunData,
    rows: csv::Writer<File>,
    #[allow(dead_code)]
    sessions: Gauge,
}

impl Collector {
    pub(super) fn new(files: &Files, sessions: Gauge) -> io::Result<Self> {
        let mut rows = csv::Writer::from_writer(files.open(".csv")?);
        rows.write_record(csv_rows::COLUMNS)?;
        rows.flush()?;
        Ok(Self { run: RunData::default(), rows, sessions })
    }

    /// Until the last recorder is gone.
    pub(super) fn run(mut self, incoming: &Receiver<Parcel>) -> io::Result<RunData> {
        loop {
            match incoming.recv_timeout(FLUSH) {
                Ok(parcel) => self.take(&parcel)?,
                Err(RecvTimeoutError::Timeout) => self.rows.flush()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.rows.flush()?;
        Ok(self.run)
    }

    fn take(&mut self, parcel: &Parcel) -> io::Result<()> {
        match parcel {
            Parcel::Interval { interval, .. } => self.run.add_interval(interval),
            Parcel::Session(finished) => {
                self.run.add_session(finished);
                csv_rows::write(&mut self.rows, finished)?;
            }
        }
        Ok(())
    }
}
