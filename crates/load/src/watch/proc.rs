//! Samples CPU, memory, descriptors and threads of processes.
//! Processes that have ended, and systems without `/proc`, give no rows.

use super::{
    config::WatchConfig,
    members::Members,
    memory::{self, GENERATIONS, PhaseTracker},
};
use host::Usage;
use measure::{
    Quantity, Reading, ReadingBuffer,
    observations::{Observations, ProcessSample},
    role,
};
use parking_lot::Mutex;
use settings::cells::CellWriter;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    time::{Duration, Instant},
};

/// The CPU time of a process that was not sampled for this long are dropped.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Samples the members' processes and this one.
#[derive(Debug)]
pub(super) struct ProcessSampler {
    rows: CellWriter<File>,
    members: Members,
    readings: ReadingBuffer,
    phases: PhaseTracker,
    /// CPU time of each process by its id, and when it was read.
    last: BTreeMap<u32, (Duration, Instant)>,
}

impl ProcessSampler {
    pub(super) fn new(config: &WatchConfig, members: Members, phases: PhaseTracker) -> io::Result<Self> {
        let mut rows = CellWriter::new(File::create(&config.resources)?);
        rows.write_record(["second", "process", "cpu_share", "rss_mb", "fds", "threads"])?;
        rows.flush()?;
        Ok(Self { rows, members, readings: config.readings.clone(), phases, last: BTreeMap::new() })
    }

    /// Samples all processes for a second of the run.
    pub(super) fn sample(&mut self, second: u64, seen: &Mutex<Observations>) {
        let members = self.members.lock().clone();
        let running =
            members.into_iter().filter_map(|member| Some((member.name, member.pid?, member.has_children)));
        let processes: Vec<_> = running.chain([("client".to_owned(), std::process::id(), true)]).collect();
        self.last.retain(|_, (_, at)| at.elapsed() < FORGOTTEN);
        let (mut readings, mut rss) = (Vec::new(), Vec::new());
        for (name, pid, has_children) in processes {
            let Some(sample) = self.read_family(pid, if has_children { GENERATIONS } else { 0 }) else {
                continue;
            };
            seen.lock().process(&name, second, &sample);
            read(&mut readings, &name, &sample);
            rss.push((name.clone(), sample.rss_mb));
            let whole = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
            // An error is ignored: a full disk affects the run's own results as well, which report it.
            let _ = self.rows.write_record([
                second.to_string(),
                name,
                sample.cpu.map(|cpu| format!("{cpu:.3}")).unwrap_or_default(),
                format!("{:.1}", sample.rss_mb),
                whole(sample.descriptors),
                sample.threads.to_string(),
            ]);
        }
        let _ = self.rows.flush();
        memory::add(seen, self.phases.next(), &rss);
        let roles = by_role(&readings);
        readings.extend(roles);
        self.readings.push(second.saturating_sub(1), readings);
    }

    /// Returns the sum of a process and `generations` generations of its children.
    fn read_family(&mut self, pid: u32, generations: u32) -> Option<ProcessSample> {
        let mut sum = self.read(pid)?;
        let children = if generations > 0 { host::children(pid) } else { Vec::new() };
        for child in children.into_iter().filter_map(|child| self.read_family(child, generations - 1)) {
            sum.cpu = sum.cpu.zip(child.cpu).map(|(a, b)| a + b).or(sum.cpu);
            sum.rss_mb += child.rss_mb;
            sum.threads += child.threads;
            // The limit applies to each process, so that the highest number counts instead of the sum.
            sum.descriptors = sum.descriptors.max(child.descriptors);
        }
        Some(sum)
    }

    fn read(&mut self, pid: u32) -> Option<ProcessSample> {
        let (now, usage) = (Instant::now(), Usage::of(pid).ok()?);
        let cpu = self.last.insert(pid, (usage.cpu, now)).map(|(before, then)| {
            let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
            usage.cpu.saturating_sub(before).as_secs_f64() / seconds
        });
        Some(ProcessSample {
            cpu,
            rss_mb: usage.rss_kib as f64 / 1024.0,
            descriptors: host::open_files(pid),
            descriptor_limit: host::open_file_limit(pid),
            threads: usage.threads,
        })
    }
}

/// Adds the readings of one process.
fn read(readings: &mut Vec<Reading>, name: &str, sample: &ProcessSample) {
    let mut one = |quantity, value| readings.push(Reading { quantity, label: name.to_owned(), value });
    one(Quantity::RssMb, sample.rss_mb);
    if let Some(cores) = sample.cpu {
        one(Quantity::CpuShare, cores);
    }
}

/// Returns the sums of each role whose processes have other names than the role.
fn by_role(readings: &[Reading]) -> Vec<Reading> {
    let mut sums: BTreeMap<(Quantity, &str), f64> = BTreeMap::new();
    for reading in readings.iter().filter(|reading| role(&reading.label) != reading.label) {
        *sums.entry((reading.quantity, role(&reading.label))).or_default() += reading.value;
    }
    let reading = |((quantity, role), value): ((Quantity, &str), f64)| Reading {
        quantity,
        label: role.to_owned(),
        value,
    };
    sums.into_iter().map(reading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_the_sum_of_its_processes() {
        let mut readings = Vec::new();
        for (name, cpu, rss_mb) in
            [("server-1", None, 10.0), ("server-2", Some(0.5), 20.0), ("redis", Some(0.1), 5.0)]
        {
            read(&mut readings, name, &ProcessSample { cpu, rss_mb, ..ProcessSample::default() });
        }
        let reading = |quantity, value| Reading { quantity, label: "server".into(), value };
        assert_eq!(by_role(&readings), [reading(Quantity::RssMb, 30.0), reading(Quantity::CpuShare, 0.5)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_sampled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let readings = ReadingBuffer::default();
        let rows = CellWriter::new(File::create(&path).unwrap());
        let mut sampler = ProcessSampler {
            rows,
            members: Members::default(),
            readings: readings.clone(),
            phases: PhaseTracker::new(Vec::new()),
            last: BTreeMap::new(),
        };
        let seen = Mutex::new(Observations::default());
        sampler.sample(1, &seen);
        sampler.sample(2, &seen);
        let usage = seen.lock().processes["client"].clone();
        assert!(usage.max_rss_mb > 1.0 && usage.max_descriptors > 2 && usage.descriptor_limit.is_some());
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
        assert_eq!(readings.take(1).len(), 2, "memory, and CPU since the first sample");
    }
}
