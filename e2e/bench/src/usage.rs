//! Who uses the processors while a measure runs, and how long each backend of Postgres waits for what.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use procfs::process::{Process, all_processes};
use procfs::{CurrentSI, KernelStats, ticks_per_second};
use serde::Serialize;
use shardlane_e2e::setting;

/// Whoever is none of the others: figures are disturbed if it uses much.
pub const OTHERS: &str = "others";

/// The servers' processes.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    postgres: i32,
    kafka: i32,
    redis: i32,
}

/// The processors' time that each process has used up to a moment.
pub struct Snapshot {
    at: Instant,
    processes: BTreeMap<i32, (Part, u64)>,
    machine: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Named(&'static str),
    Backend,
}

/// Processors used on average, by part.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage(pub BTreeMap<String, f64>);

impl Servers {
    /// Those that the environment names.
    pub fn of_the_environment() -> Result<Self> {
        let pid = |name| setting(name)?.parse().with_context(|| name.to_owned());
        Ok(Self {
            postgres: pid("SHARDLANE_TEST_POSTGRES_PID")?,
            kafka: pid("SHARDLANE_TEST_KAFKA_PID")?,
            redis: pid("SHARDLANE_TEST_REDIS_PID")?,
        })
    }

    /// What has been used up to now by the servers, by this process, and by those that are named.
    pub fn snapshot(&self, named: &[(&'static str, u32)]) -> Result<Snapshot> {
        let mut processes = BTreeMap::new();
        for process in all_processes()? {
            // One that ended meanwhile used little of what is looked for.
            let Ok(stat) = process.and_then(|process| process.stat()) else { continue };
            if let Some(part) = self.part_of(stat.pid, stat.ppid, named) {
                processes.insert(stat.pid, (part, stat.utime + stat.stime));
            }
        }
        let total = KernelStats::current()?.total;
        let machine = total.user + total.nice + total.system + total.irq.unwrap_or(0) + total.softirq.unwrap_or(0);
        Ok(Snapshot { at: Instant::now(), processes, machine: machine + total.steal.unwrap_or(0) })
    }

    fn part_of(&self, pid: i32, parent: i32, named: &[(&'static str, u32)]) -> Option<Part> {
        if let Some((name, _)) = named.iter().find(|(_, number)| i64::from(*number) == i64::from(pid)) {
            return Some(Part::Named(name));
        }
        if pid == self.kafka {
            return Some(Part::Named("Kafka"));
        }
        if pid == self.redis {
            return Some(Part::Named("Redis"));
        }
        if pid.unsigned_abs() == std::process::id() {
            return Some(Part::Named("bench"));
        }
        (pid == self.postgres || parent == self.postgres).then_some(Part::Backend)
    }
}

impl Snapshot {
    /// What was used since.
    pub fn since(&self, before: &Self) -> Usage {
        let per_core = self.at.duration_since(before.at).as_secs_f64() * ticks(ticks_per_second());
        let mut usage = BTreeMap::new();
        let (mut all, mut busiest, mut postgres) = (0., 0_f64, 0.);
        for (pid, (part, now)) in &self.processes {
            let cores = ticks(now - before.processes.get(pid).map_or(0, |(_, then)| *then)) / per_core;
            all += cores;
            match part {
                Part::Named(name) => *usage.entry((*name).to_owned()).or_default() += cores,
                Part::Backend => {
                    postgres += cores;
                    busiest = busiest.max(cores);
                }
            }
        }
        usage.insert("busiest backend".to_owned(), busiest);
        usage.insert("rest of Postgres".to_owned(), postgres - busiest);
        usage.insert(OTHERS.to_owned(), (ticks(self.machine - before.machine) / per_core - all).max(0.));
        Usage(usage)
    }
}

#[allow(clippy::cast_precision_loss)]
fn ticks(ticks: u64) -> f64 {
    ticks as f64
}

impl Usage {
    /// The mean of several.
    pub fn mean(all: &[Self]) -> Self {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for (part, cores) in all.iter().flat_map(|usage| &usage.0) {
            *sums.entry(part.clone()).or_default() += cores;
        }
        let count = f64::from(u32::try_from(all.len().max(1)).unwrap_or(u32::MAX));
        sums.values_mut().for_each(|sum| *sum /= count);
        Self(sums)
    }

    /// What whoever does not belong here has used.
    pub fn others(&self) -> f64 {
        self.0.get(OTHERS).copied().unwrap_or_default()
    }

    /// The parts that matter, the largest first. With a rate also the microseconds of processor time for one of what the
    /// rate counts: these hold even while somebody else uses the processors too.
    pub fn text(&self, rate: Option<f64>) -> String {
        let mut parts: Vec<_> = self.0.iter().filter(|(_, cores)| **cores >= 0.005).collect();
        parts.sort_by(|one, other| other.1.total_cmp(one.1));
        let each = |cores: &f64| rate.map(|rate| format!(" ({:.1} µs each)", cores / rate * 1e6)).unwrap_or_default();
        let text = |(part, cores): &(&String, &f64)| {
            format!("{part} {cores:.2}{}", if *part == OTHERS { String::new() } else { each(cores) })
        };
        parts.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

/// The most memory that a process has had resident, in MiB.
pub fn peak_memory(pid: u32) -> Result<f64> {
    let peak = Process::new(i32::try_from(pid)?)?.status()?.vmhwm.context("the system tells no VmHWM")?;
    Ok(ticks(peak) / 1024.)
}
