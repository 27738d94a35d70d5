//! Replays of small traces whose figures are known.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::*;
use crate::trace::{self, Spec};

/// Counts, notes, and stops after a number of requests if told.
#[derive(Default)]
struct Recorder {
    phases: Mutex<Vec<(String, u64)>>,
    done: AtomicU64,
    notes: Mutex<Vec<String>>,
    stop_after: Option<u64>,
}

impl Watch for Recorder {
    fn phase(&self, name: &str, requests: u64) {
        self.phases.lock().push((name.to_owned(), requests));
    }
    fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
    fn stop(&self) -> bool {
        self.stop_after.is_some_and(|n| self.done.load(Ordering::Relaxed) >= n)
    }
    fn note(&self, line: &str) {
        self.notes.lock().push(line.to_owned());
    }
}

fn trace(lines: &str) -> Trace {
    let text = format!("time,file,op,offset,bytes\n{}", lines.replace(' ', "\n"));
    let mut trace = trace::read(text.as_bytes(), "t", None).unwrap();
    trace.sha256 = format!("{:x}", lines.len());
    trace
}

fn generated(spec: &str) -> Trace {
    spec.parse::<Spec>().unwrap().generate()
}

fn on(cache: Option<&Path>) -> Config {
    let cache = cache.map(Path::to_owned);
    Config { memory_bytes: 16 << 20, fill: Fill::Exact, cache, ..Config::default() }
}

fn run(trace: &Trace, config: &Config) -> Vec<Phase> {
    let mut phases = Vec::new();
    replay(trace, config, &Recorder::default(), |p| phases.push(p)).unwrap();
    for p in &phases {
        assert_eq!(p.wrong_bytes, 0, "{p:?}");
        let local = p.memory_hit_bytes + p.disk_hit_bytes + p.zero_bytes;
        let missed = p.miss_cold_bytes
            + p.miss_capacity_bytes
            + p.miss_coherency_bytes
            + p.miss_corruption_bytes
            + p.miss_bypass_bytes
            + p.miss_fault_bytes;
        assert_eq!(local + missed, p.bytes, "every byte is classed once: {p:?}");
        assert!(p.peak_memory_bytes <= config.memory_bytes, "{p:?}");
    }
    phases
}

#[test]
fn hits_are_counted_by_byte_block_and_request() {
    // Far apart, so that nothing looks sequential: 2 pages cold; the same again; one old, one new page.
    let t = trace(
        "0,a,read,4194304,8192 0,a,read,4194304,8192 0,b,read,8388608,4096 0,a,read,4190208,8192",
    );
    let [all] = &run(&t, &on(None))[..] else { panic!() };
    assert_eq!((all.phase.as_str(), all.requests, all.reads, all.bytes), ("all", 4, 4, 28672));
    assert_eq!((all.memory_hit_bytes, all.disk_hit_bytes), (8192 + 4096, 0));
    assert_eq!(all.request_hit_ratio, Some(0.25));
    assert_eq!(all.block_hit_ratio, Some(0.428571)); // 3 of 7
    assert_eq!(all.byte_hit_ratio, 0.428571);
    assert!(all.latency_us.p50 > 0.0 && all.latency_us.p50 <= all.latency_us.p999);
}

#[test]
fn memory_does_not_survive_a_restart_and_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let t = trace("0,a,read,0,65536 0,b,read,0,4096 0,a,read,0,65536 0,b,read,0,4096");
    let config = Config { restart_at: Some(50), ..on(Some(&dir.path().join("c"))) };
    let [before, after] = &run(&t, &config)[..] else { panic!() };
    assert_eq!((before.phase.as_str(), after.phase.as_str()), ("before", "after"));
    assert_eq!((before.requests, after.requests), (2, 2));
    assert_eq!((before.disk_hit_bytes, after.disk_hit_bytes), (0, 65536 + 4096));
    assert_eq!((after.origin_bytes, after.byte_hit_ratio), (0, 1.0));
    // Without a disk there is nothing left.
    let [_, after] = &run(&t, &Config { cache: None, ..config })[..] else { panic!() };
    assert_eq!((after.disk_hit_bytes, after.memory_hit_bytes), (0, 0));
}

/// Two fresh runs with one thread; the figures that must not depend on timing.
fn figures_twice(t: &Trace, memory_bytes: u64) -> Phase {
    let figures = || {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { memory_bytes, ..on(Some(&dir.path().join("c"))) };
        run(t, &config).remove(0)
    };
    let (one, two) = (figures(), figures());
    let of = |p: &Phase| {
        let bytes = [p.memory_hit_bytes, p.disk_hit_bytes, p.origin_bytes, p.miss_coherency_bytes];
        (bytes, p.evictions, p.request_hit_ratio, p.block_hit_ratio)
    };
    assert_eq!(of(&one), of(&two));
    one
}

#[test]
fn one_thread_gives_the_same_figures_every_time() {
    let mixed = generated("zipf+scan+loop,requests=600,files=12,writes=3");
    assert!(figures_twice(&mixed, 64 << 20).miss_coherency_bytes > 0);
    // Short of memory, but never sequential: what is evicted does not depend on readahead.
    let far_apart = |i: u64| format!("0,f{},read,{},16384", i * i % 7, (i * 37 % 120) << 20);
    let lines: Vec<String> = (0..600).map(far_apart).collect();
    let short = figures_twice(&trace(&lines.join(" ")), 1 << 20);
    assert!(short.evictions > 0 && short.disk_hit_bytes > 0, "{short:?}");
}

#[test]
fn a_second_run_starts_warm_but_not_with_what_had_changed() {
    let dir = tempfile::tempdir().unwrap();
    let config = on(Some(&dir.path().join("c")));
    let t = trace("0,a,read,0,65536 0,b,read,0,65536 0,a,write,100,10 0,a,read,0,65536");
    let [first] = &run(&t, &config)[..] else { panic!() };
    assert_eq!((first.writes, first.written_bytes, first.writes_skipped), (1, 10, false));
    assert_eq!((first.disk_hit_bytes, first.miss_coherency_bytes), (0, 65536));
    // b is as it was. Of a the disk has version 2, and this run begins with version 1.
    let [second] = &run(&t, &config)[..] else { panic!() };
    assert_eq!(second.disk_hit_bytes, 65536, "{second:?}");
    // Without the change everything is local the second time.
    let dir = tempfile::tempdir().unwrap();
    let skip = Config { writes: Writes::Skip, ..on(Some(&dir.path().join("c"))) };
    let [first] = &run(&t, &skip)[..] else { panic!() };
    assert!(first.writes_skipped && first.miss_coherency_bytes == 0, "{first:?}");
    assert_eq!(run(&t, &skip)[0].origin_bytes, 0);
}

#[test]
fn another_trace_meets_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = on(Some(&dir.path().join("c")));
    run(&trace("0,a,read,0,65536"), &config);
    let [other] = &run(&trace("0,bcd,read,0,65536"), &config)[..] else { panic!() };
    assert_eq!(other.disk_hit_bytes, 0);
}

#[test]
fn more_threads_read_the_same_bytes_and_leave_out_what_they_cannot_know() {
    let dir = tempfile::tempdir().unwrap();
    let t = generated("zipf+scan+loop,requests=800,files=20,writes=5,seed=5");
    let config = Config {
        threads: 4,
        memory_bytes: 4 << 20,
        restart_at: Some(40),
        ..on(Some(&dir.path().join("c")))
    };
    let recorder = Recorder::default();
    let mut phases = Vec::new();
    replay(&t, &config, &recorder, |p| phases.push(p)).unwrap();
    assert_eq!(*recorder.phases.lock(), [("before".to_owned(), 320), ("after".to_owned(), 480)]);
    assert_eq!(recorder.done.load(Ordering::Relaxed), 800);
    for p in &phases {
        assert_eq!(
            (p.wrong_bytes, p.request_hit_ratio, p.block_hit_ratio, p.threads),
            (0, None, None, 4)
        );
    }
    assert!(phases[1].disk_hit_bytes > 0);
    let asked: u64 = phases.iter().map(|p| p.bytes).sum();
    let reads = t.requests.iter().filter(|r| r.op == crate::trace::Op::Read);
    assert_eq!(asked, reads.map(|r| u64::from(r.len)).sum::<u64>());
}

#[test]
fn a_wrong_byte_is_found_and_named() {
    // What is in memory after the origin's silent change is wrong, byte for byte.
    let t = trace("0,a,read,0,8192 0,x,read,0,10 0,a,read,4096,4096");
    let recorder = Recorder::default();
    let mut phases = Vec::new();
    let config = Config { lie_at: Some(2), ..on(None) };
    replay(&t, &config, &recorder, |p| phases.push(p)).unwrap();
    let wrong = phases[0].wrong_bytes;
    assert!((4000..=4096).contains(&wrong), "{wrong} (a byte in 256 agrees by chance)");
    let notes = recorder.notes.lock();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("WRONG: file \"a\" first wrong byte at offset 409"), "{notes:?}");
}

#[test]
fn a_stopped_replay_ends_and_leaves_the_cache_free() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        let config = Config { threads, ..on(Some(&dir.path().join("c"))) };
        let t = generated("scan,requests=300,files=8");
        let recorder = Recorder { stop_after: Some(100), ..Recorder::default() };
        let stopped = replay(&t, &config, &recorder, |_| panic!("no report"));
        assert!(matches!(stopped, Err(ReplayError::Stopped)), "{stopped:?}");
        assert!(recorder.done.load(Ordering::Relaxed) < 110);
        run(&t, &config);
    }
}

#[test]
fn absurd_places_in_a_file_are_read_too() {
    let end = (1u64 << 63) - 1;
    let t = trace(&format!(
        "0,a,read,{},4095 0,a,read,{},4095 0,a,read,0,3000000",
        end - 4095,
        end - 4095
    ));
    let dir = tempfile::tempdir().unwrap();
    run(&t, &on(None));
    run(&t, &on(Some(&dir.path().join("c"))));
}

#[test]
fn the_real_nfs_trace_has_no_wrong_byte_and_hits_the_disk_after_a_restart() {
    let Some(traces) = std::env::var_os("NETFS_TRACES") else {
        eprintln!("NETFS_TRACES is not set: the real NFS trace was not replayed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let t = trace::open(&Path::new(&traces).join("nfs-animation-set0.csv.zst"), None).unwrap();
    let config = Config { restart_at: Some(50), ..on(Some(&dir.path().join("c"))) };
    let [before, after] = &run(&t, &config)[..] else { panic!() };
    assert_eq!((before.requests + after.requests, before.bytes + after.bytes), (8998, 147_136_784));
    assert!(after.disk_hit_bytes > 0 && after.memory_hit_bytes > 0, "{after:?}");
}
