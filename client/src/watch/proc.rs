//! CPU, memory, descriptors and threads of processes, from `/proc`.
//! Where there is none, and of processes that are gone, there are no rows.

use super::usage::{Sample, Watched};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Ticks a second in `/proc/PID/stat`: fixed for programs, whatever the kernel counts in.
const TICKS: f64 = 100.0;

/// A process that was not seen for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Names and process ids.
pub(super) type Known = Arc<Mutex<BTreeMap<String, u32>>>;

/// Samples the known processes and this one.
#[derive(Debug)]
pub(super) struct Sampler {
    rows: csv::Writer<File>,
    known: Known,
    /// By process id: CPU ticks, and when they were read.
    last: BTreeMap<u32, (f64, Instant)>,
}

impl Sampler {
    pub(super) fn new(path: &Path, known: Known) -> io::Result<Self> {
        let mut rows = csv::Writer::from_writer(File::create(path)?);
        rows.write_record(["second", "process", "cpu_share", "rss_mb", "fds", "threads"])?;
        rows.flush()?;
        Ok(Self { rows, known, last: BTreeMap::new() })
    }

    pub(super) fn sample(&mut self, second: u64, seen: &Mutex<Watched>) {
        let mut processes = self.known.lock().clone();
        processes.insert("client".to_owned(), std::process::id());
        self.last.retain(|_, (_, at)| at.elapsed() < FORGOTTEN);
        for (name, pid) in processes {
            let Some(sample) = self.read_family(pid, is_master(&name)) else { continue };
            seen.lock().process(&name, second, &sample);
            let whole = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
            // A full disk costs rows of this table alone; the run's own results tell it.
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
    }

    /// A process, with its children where these do its work.
    fn read_family(&mut self, pid: u32, is_master: bool) -> Option<Sample> {
        let mut sum = self.read(pid)?;
        let children = if is_master { children(pid) } else { Vec::new() };
        for child in children.into_iter().filter_map(|child| self.read(child)) {
            sum.cpu = sum.cpu.zip(child.cpu).map(|(a, b)| a + b).or(sum.cpu);
            sum.rss_mb += child.rss_mb;
            sum.threads += child.threads;
            // The limit is a process's own, so the fullest one counts.
            sum.descriptors = sum.descriptors.max(child.descriptors);
        }
        Some(sum)
    }

    fn read(&mut self, pid: u32) -> Option<Sample> {
        let text = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let (now, ticks) = (Instant::now(), ticks(&text("stat")?)?);
        let cpu = self.last.insert(pid, (ticks, now)).map(|(before, then)| {
            let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
            ((ticks - before) / TICKS / seconds).max(0.0)
        });
        let (rss_mb, threads) = status(&text("status")?)?;
        let limit = text("limits").and_then(|limits| descriptor_limit(&limits));
        Some(Sample { cpu, rss_mb, descriptors: descriptors(pid), descriptor_limit: limit, threads })
    }
}

/// HAProxy's first process only minds its workers.
fn is_master(name: &str) -> bool {
    name.starts_with("haproxy")
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// User and system time. The name in it may hold anything, so what follows its last bracket is read.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

fn status(status: &str) -> Option<(f64, u64)> {
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next();
    let kib: f64 = field("VmRSS:")?.parse().ok()?;
    Some((kib / 1024.0, field("Threads:")?.parse().ok()?))
}

fn descriptor_limit(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Newer kernels tell the number as the directory's size; older ones are counted.
fn descriptors(pid: u32) -> Option<u64> {
    let directory = format!("/proc/{pid}/fd");
    match fs::metadata(&directory).ok()?.len() {
        0 => Some(fs::read_dir(&directory).ok()?.count() as u64),
        told => Some(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(ticks(stat), Some(200.0));
        assert_eq!(status("Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t3\n"), Some((2.0, 3)));
        assert_eq!(
            descriptor_limit("Max open files            20000                20000                files\n"),
            Some(20_000)
        );
        for text in ["", "7 (a", "7 (a) S 1", "VmRSS: x kB\nThreads: 1"] {
            assert_eq!((ticks(text), status(text)), (None, None), "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let mut sampler = Sampler::new(&path, Known::default()).unwrap();
        let seen = Mutex::new(Watched::default());
        sampler.sample(1, &seen);
        sampler.sample(2, &seen);
        let usage = seen.lock().processes["client"].clone();
        assert!(usage.most_rss_mb > 1.0 && usage.most_descriptors > 2 && usage.descriptor_limit.is_some());
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 3);
    }
}
