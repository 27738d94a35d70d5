//! What a server's answers do to requests.

use futures_util::{
    FutureExt,
    future::{Either, select},
};
use netfs::{Errno, FillPolicy, ReadOptions, clock::Clock, remote::IoLimits};
use netfs_memory::{Effect, Fault, Gate, MemoryFs, Op, OverLong, SnapshotAt};

use super::{
    clocked, cx, eventually, fails, limit, open_as, origin, read, reads, secs, settle, user,
};
use crate::common::Bench;

const G: u64 = 256 * 1024;

fn exact(fs: &std::sync::Arc<MemoryFs>) -> Bench {
    Bench::with(fs, None, |b| b.fill(FillPolicy::Exact))
}

#[test]
fn n_c01_bytes_past_a_cut_are_zeros_when_the_file_grows_again() {
    let fs = origin().file("a", 9000).build().unwrap();
    let cache = netfs::fscache::MemCache::new();
    let bench = Bench::new(&fs, Some(cache.clone()));
    bench.check("a", 0, 9000);
    bench.drain();
    fs.change("a").truncate(5000).unwrap();
    bench.check("a", 0, 9000);
    bench.drain();
    fs.change("a").truncate(9000).unwrap();
    bench.check("a", 0, 9000);
    let file = bench.open("a");
    assert!(read(&file, 5000, 4000).unwrap().iter().all(|&b| b == 0));
    bench.drain();
    bench.shutdown();
    Bench::new(&fs, Some(cache.restart())).check("a", 0, 9000);
}

#[test]
fn n_c05_no_request_is_empty_or_reaches_past_the_end() {
    let sizes = [0, 1, 4095, 4096, 4097, G - 1, G, G + 1, 3 * G + 5];
    for size in sizes {
        let fs = origin().file("a", size).build().unwrap();
        limit(&fs, 50_000);
        let bench = Bench::new(&fs, None);
        for offset in [0, size / 2, size.saturating_sub(1), size, size + 1, size + G] {
            bench.check("a", offset, 100_000);
        }
        for (start, end) in reads(&fs) {
            assert!(start < end && end <= size, "{start}..{end} of {size}");
        }
        assert_eq!(fs.take_breaches(), Vec::<String>::new());
    }
}

#[test]
fn n_c05_nothing_past_the_end_is_asked_by_unbuffered_reads_either() {
    let fs = origin().file("a", 5000).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let mut buf = vec![0; 9000];
    assert_eq!(file.blocking().read_at_with(4000, &mut buf, options).unwrap(), 1000);
    assert_eq!(file.blocking().read_at_with(5000, &mut buf, options).unwrap(), 0);
    assert_eq!(reads(&fs), [(4000, 5000)]);
}

#[test]
fn n_c07_a_window_may_be_widened_but_not_shrunk() {
    let fs = origin().file("a", 4 * G).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.fill(FillPolicy::Granule).readahead_max(0));
    fs.configure(|s| {
        s.expand = Some(std::sync::Arc::new(|_, w| *w = w.start + 4096..w.end - 4096));
    });
    bench.check("a", 0, G as usize);
    assert_eq!(reads(&fs), [(0, G)], "the window that lost bytes was ignored");
    fs.configure(|s| s.expand = Some(std::sync::Arc::new(|_, w| w.end += G)));
    bench.check("a", G, 10);
    assert_eq!(reads(&fs), [(G, 3 * G)]);
}

#[test]
fn n_c08_an_early_end_of_file_is_one_call_and_zeros() {
    let fs = origin().file("a", 4096).file("b", G).build().unwrap();
    let bench = Bench::with(&fs, None, |b| b.readahead_max(0).memory_bytes(G));
    // The memory has been used before, so zeros are no accident.
    bench.check("b", 0, G as usize);
    bench.netfs().drop_memory();
    let _ = reads(&fs);
    fs.inject(Fault::on(Op::Read).eof(1000));
    let file = bench.open("a");
    let bytes = read(&file, 0, 4096).unwrap();
    fs.verify("a", 0, &bytes[..1000]).unwrap();
    assert!(bytes[1000..].iter().all(|&b| b == 0));
    assert_eq!(reads(&fs), [(0, 4096)]);
}

#[test]
fn n_c09_a_short_read_goes_on_where_it_stopped() {
    let fs = origin().file("a", 10_000).build().unwrap();
    let bench = exact(&fs);
    fs.inject(Fault::on(Op::Read).short(1000));
    fs.inject(Fault::on(Op::Read).short(5000));
    bench.check("a", 0, 10_000);
    assert_eq!(reads(&fs), [(0, 10_000), (1000, 10_000), (6000, 10_000)]);
}

#[test]
fn n_c09_no_progress_is_enodata_and_nothing_is_kept() {
    let fs = origin().file("a", 4000).build().unwrap();
    let bench = exact(&fs);
    let file = bench.open("a");
    fs.inject(Fault::on(Op::Read).zero_progress());
    fails(read(&file, 0, 4000), Errno::ENODATA);
    assert_eq!(reads(&fs).len(), 1, "not tried for ever");
    bench.check("a", 0, 4000);
    assert_eq!(reads(&fs), [(0, 4000)]);
}

#[test]
fn row_34_retries_without_progress_end() {
    let fs = origin().file("a", 10_000).build().unwrap();
    let bench = exact(&fs);
    let file = bench.open("a");
    let fault = fs.inject(Fault::on(Op::Read).retry(0).always());
    fails(read(&file, 0, 10_000), Errno::EIO);
    assert!(reads(&fs).len() <= 8);
    fs.remove_fault(&fault);
    bench.check("a", 0, 10_000);
}

#[test]
fn n_c10_a_failure_costs_only_the_folios_it_touches() {
    let fs = origin().file("a", G).build().unwrap();
    limit(&fs, 16_384);
    fs.configure(|s| s.limits.max_segments = 1);
    let bench = exact(&fs);
    let file = bench.open("a");
    // The window is one granule; the failing call is its second half's first.
    let fault = fs.inject(Fault::on(Op::Read).range(G / 2..G / 2 + 1).always().errno(Errno::EPERM));
    fails(read(&file, G / 2, 4096), Errno::EPERM);
    assert_eq!(bench.stats().download_failed, 1, "reported once");
    fs.remove_fault(&fault);
    bench.check("a", 0, G as usize);
    bench.check("a", 0, G as usize);
}

#[test]
fn n_c11_after_every_kind_of_failure_the_folios_are_free_again() {
    for effect in Effect::failures().into_iter().chain(Effect::recoverable()) {
        let fs = origin().file("a", 3 * G + 17).build().unwrap();
        limit(&fs, 65_536);
        let bench = Bench::with(&fs, None, |b| b.memory_bytes(G));
        let file = bench.open("a");
        for nth in [1, 2, 5] {
            let _ = fs.inject(Fault::on(Op::Read).nth(nth).effect(effect.clone()));
            match read(&file, 0, 3 * G as usize + 17) {
                Ok(bytes) => fs.verify("a", 0, &bytes).unwrap(),
                Err(_) => assert!(Effect::failures().iter().any(|f| same(f, &effect))),
            }
            fs.clear_faults();
            bench.check("a", 0, 3 * G as usize + 17);
            bench.netfs().drop_memory();
        }
    }
}

fn same(a: &Effect, b: &Effect) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[test]
fn n_c12_p_d44_an_over_long_reply_is_eio_and_spares_the_neighbours() {
    for how in [OverLong::Advance(1), OverLong::Write(9000), OverLong::Hole(1)] {
        let fs = origin().file("a", 3 * G).build().unwrap();
        let bench = exact(&fs);
        bench.check("a", 0, 10);
        bench.check("a", 2 * G, 10);
        let file = bench.open("a");
        fs.inject(Fault::on(Op::Read).over_long(how));
        fails(read(&file, G, 4096), Errno::EIO);
        bench.check("a", 0, 3 * G as usize);
        let before = fs.counts();
        bench.check("a", 0, 3 * G as usize);
        assert_eq!(fs.counts().since(&before).calls(Op::Read), 0);
    }
}

#[test]
fn n_c13_retries_obey_the_limits_of_their_own_time() {
    let fs = origin().file("a", G).build().unwrap();
    limit(&fs, G);
    let bench = exact(&fs);
    let file = bench.open("a");
    let gate = Gate::new();
    let held = Fault::on(Op::Read).short(4096).hold(&gate, SnapshotAt::Issue);
    fs.inject(held);
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, G as usize).unwrap());
        gate.wait_hit();
        limit(&fs, 32_768);
        gate.release();
        fs.verify("a", 0, &reader.join().unwrap()).unwrap();
    });
    let ranges = reads(&fs);
    assert_eq!(ranges[0], (0, G));
    assert_eq!(ranges.len(), 1 + 8, "{ranges:?}");
    assert!(ranges[1..].iter().all(|(start, end)| end - start <= 32_768));
}

#[test]
fn n_c14_a_retry_waits_until_nothing_else_is_in_flight() {
    let fs = origin().file("a", 65_536).build().unwrap();
    limit(&fs, 32_768);
    let (bench, _clock) = clocked(&fs, None);
    let file = bench.open("a");
    let (second, retry) = (Gate::new(), Gate::new());
    fs.inject(Fault::on(Op::Read).range(0..1).short(4096));
    fs.inject(Fault::on(Op::Read).range(40_000..40_001).hold(&second, SnapshotAt::Issue));
    fs.inject(Fault::on(Op::Read).range(4096..4097).hold(&retry, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let reader = s.spawn(|| read(&file, 0, 65_536).unwrap());
        second.wait_hit();
        fs.wait_until(|_, in_flight| in_flight == 1);
        settle(&bench);
        assert_eq!(retry.hits(), 0, "the second half is still in flight");
        retry.release();
        second.release();
        fs.verify("a", 0, &reader.join().unwrap()).unwrap();
    });
    assert_eq!(retry.hits(), 1);
}

#[test]
fn n_c16_an_unbuffered_read_counts_up_to_the_first_failure() {
    let fs = origin().file("a", 20_000).build().unwrap();
    limit(&fs, 4096);
    let bench = exact(&fs);
    let file = bench.open("a");
    fs.inject(Fault::on(Op::Read).range(9000..9001).always().errno(Errno::EIO));
    let options = ReadOptions { unbuffered: true, ..ReadOptions::default() };
    let mut buf = vec![0; 20_000];
    assert_eq!(file.blocking().read_at_with(0, &mut buf, options).unwrap(), 8192);
    fs.verify("a", 0, &buf[..8192]).unwrap();
    let e = file.blocking().read_at_with(8192, &mut buf, options).unwrap_err();
    assert_eq!(e.errno(), Errno::EIO, "the error is not lost");
}

#[test]
fn n_c18_a_whole_object_is_one_call_an_attempt() {
    let fs = origin().file("a", 100_001).build().unwrap();
    limit(&fs, 4096);
    let bench = exact(&fs);
    let file = bench.open("a");
    fs.inject(Fault::on(Op::Read).short(1000));
    let bytes = file.blocking().read_single().unwrap();
    assert_eq!(bytes.len(), 100_001);
    fs.verify("a", 0, &bytes).unwrap();
    assert_eq!(reads(&fs)[0], (0, 100_001));
}

#[test]
fn a_whole_object_that_fails_half_way_is_an_error_not_a_shorter_object() {
    let fs = origin().file("a", 100_001).build().unwrap();
    let bench = exact(&fs);
    let file = bench.open("a");
    fs.inject(Fault::on(Op::Read).fail_after(40_000, Errno::EIO));
    assert_eq!(file.blocking().read_single().unwrap_err().errno(), Errno::EIO);
    fs.inject(Fault::on(Op::Read).short(40_000));
    fs.inject(Fault::on(Op::Read).errno(Errno::EIO));
    assert_eq!(file.blocking().read_single().unwrap_err().errno(), Errno::EIO);
    fs.verify("a", 0, &file.blocking().read_single().unwrap()).unwrap();
}

#[test]
fn n_c22_the_zero_point_never_exceeds_what_the_server_has() {
    let fs = origin().file("a", 10_000).build().unwrap();
    let bench = exact(&fs);
    let file = bench.open("a");
    for size in [5000, 20_000, 0, 300_000, 1] {
        fs.change("a").truncate(size).unwrap();
        bench.check("a", 0, 400_000);
        let sizes = file.sizes();
        assert_eq!(sizes.i_size, size);
        assert!(sizes.zero_point <= sizes.remote_i_size && sizes.remote_i_size == size);
    }
}

#[test]
fn a_deadline_bounds_its_caller_and_nobody_else() {
    let fs = origin().file("a", 10_000).build().unwrap();
    let (bench, clock) = clocked(&fs, None);
    let patient = bench.open("a");
    let hasty = open_as(&bench, "a", &cx().with_deadline(clock.now() + secs(5))).unwrap();
    let gate = Gate::new();
    fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let bounded = s.spawn(|| read(&hasty, 0, 100));
        gate.wait_hit();
        let waiting = s.spawn(|| read(&patient, 0, 100).unwrap());
        clock.advance(secs(6));
        fails(bounded.join().unwrap(), Errno::ETIMEDOUT);
        gate.release();
        fs.verify("a", 0, &waiting.join().unwrap()).unwrap();
    });
    assert_eq!(reads(&fs).len(), 1, "the work went on without the caller");
}

#[test]
fn one_readers_refusal_never_reaches_another_reader() {
    let fs = origin().file("a", 10_000).build().unwrap();
    let bench = exact(&fs);
    let (refused, granted) = (open_as(&bench, "a", &user(8)), open_as(&bench, "a", &user(7)));
    let (refused, granted) = (refused.unwrap(), granted.unwrap());
    let gate = Gate::new();
    let fault = Fault::on(Op::Read).uid(8).always().errno(Errno::EACCES);
    fs.inject(fault.hold(&gate, SnapshotAt::Issue));
    std::thread::scope(|s| {
        let first = s.spawn(|| read(&refused, 0, 4096));
        gate.wait_hit();
        let mut buf = [0; 4096];
        let mut second = Box::pin(granted.read_at(0, &mut buf));
        // Now it waits for the page that the first one's request has locked.
        assert!((&mut second).now_or_never().is_none());
        gate.release();
        assert_eq!(pollster::block_on(second).unwrap(), 4096);
        fs.verify("a", 0, &buf).unwrap();
        // The right bytes may have come in before the refused one looked again.
        if let Err(e) = first.join().unwrap() {
            assert_eq!(e.errno(), Errno::EACCES);
        }
    });
}

#[test]
fn n_c10_the_failure_of_a_readahead_is_no_readers_error() {
    let fs = origin().file("a", 4 * G).build().unwrap();
    let bench = Bench::new(&fs, None);
    let file = bench.open("a");
    let (gate, target) = (Gate::new(), 2 * G);
    let fault = Fault::on(Op::Read).range(target..target + 1).drop_sub(0).times(1);
    fs.inject(fault.hold(&gate, SnapshotAt::Issue));
    // Nobody asks for the target; a window ahead of the stream comes to it.
    for at in (0..target).step_by(16_384) {
        let mut buf = [0; 16_384];
        let step = Box::pin(file.read_at(at, &mut buf));
        let ahead = Box::pin(gate.hit(1));
        if let Either::Right(_) = pollster::block_on(select(step, ahead)) {
            break;
        }
    }
    gate.wait_hit();
    let mut buf = [0; 4096];
    let mut reader = Box::pin(file.read_at(target, &mut buf));
    assert!((&mut reader).now_or_never().is_none(), "it waits for the readahead's folio");
    gate.release();
    assert_eq!(pollster::block_on(reader).expect("it asks itself"), 4096);
    fs.verify("a", target, &buf).unwrap();
}

#[test]
fn p_d60_every_call_ends_and_gives_back_what_it_held() {
    let fs = origin().file("a", 3 * G).build().unwrap();
    limit(&fs, 65_536);
    let bench = exact(&fs);
    for effect in Effect::failures() {
        let _ = fs.inject(Fault::on(Op::Read).nth(3).effect(effect));
        let file = bench.open("a");
        // Whether it fails is not the question here.
        let _ = read(&file, 0, 3 * G as usize);
        bench.netfs().drop_memory();
    }
    fs.clear_faults();
    fs.wait_until(|_, in_flight| in_flight == 0);
    bench.shutdown();
    fs.wait_idle();
    // The driver's threads end in the background.
    eventually("opens given back", || fs.opens().held() == 0);
}

#[test]
fn p_d62_reads_above_the_zero_point_ask_nobody() {
    let fs = origin().file("a", 5000).build().unwrap();
    let bench = exact(&fs);
    bench.check("a", 5000, 1000);
    bench.check("a", 1 << 40, 1000);
    assert_eq!(reads(&fs), []);
    fs.change("a").append(5000).unwrap();
    bench.check("a", 5000, 1000);
}

#[test]
fn limits_of_segments_hold_for_retries_too() {
    let fs = origin().file("a", G).build().unwrap();
    fs.configure(|s| s.limits = IoLimits { max_segments: 1, ..IoLimits::default() });
    let bench = exact(&fs);
    fs.inject(Fault::on(Op::Read).short(5000));
    fs.inject(Fault::on(Op::Read).short(100));
    bench.check("a", 0, G as usize);
    assert_eq!(fs.take_breaches(), Vec::<String>::new());
}
