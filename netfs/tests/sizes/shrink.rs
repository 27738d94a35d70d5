//! A file that was cut and grows again has zeros where it was cut (N-C22, N-C73).

use netfs_memory::{Fault, Gate, MemoryFs, Op, SnapshotAt};

use crate::{common::Bench, tools::*};

const SIZE: usize = 700 * K;

#[test]
fn n_c73_p_d56_what_was_cut_off_comes_back_from_neither_memory_nor_disk_nor_after_a_restart() {
    for place in Place::each() {
        let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
        let bench = Bench::new(&fs, place.backend());
        let file = open(&bench, "f");
        read(&file, 0, SIZE);
        bench.drain();
        write(&file, 300 * K, &[3; 1000]);
        let mut expected = server(&fs, "f");
        for (size, grown) in [(100 * K + 77, 650 * K), (4096, SIZE), (10, 300 * K), (0, 5)] {
            file.blocking().set_len(size as u64).expect("cut");
            file.blocking().set_len(grown as u64).expect("grow");
            expected.resize(size, 0);
            expected.resize(grown, 0);
            assert_eq!(read(&file, 0, SIZE), expected, "{size} to {grown}");
            bench.netfs().drop_memory();
            assert_eq!(read(&file, 0, SIZE), expected, "{size} to {grown} past memory");
            assert_eq!(server(&fs, "f"), expected);
            bench.drain();
        }
        drop(file);
        bench.shutdown();
        let bench = Bench::new(&fs, place.backend());
        bench.check("f", 0, SIZE);
        bench.shutdown();
    }
}

#[test]
fn a_fetch_from_before_a_cut_brings_nothing_back() {
    for place in Place::each() {
        let fs = MemoryFs::builder().file("f", SIZE as u64).build().expect("build");
        let bench = Bench::new(&fs, place.backend());
        let file = open(&bench, "f");
        let gate = Gate::new();
        fs.inject(Fault::on(Op::Read).hold(&gate, SnapshotAt::Issue).times(1));
        let mut expected = server(&fs, "f");
        expected.resize(1000, 0);
        expected.resize(SIZE, 0);
        std::thread::scope(|s| {
            let reader = s.spawn(|| read(&file, 0, 64 * K));
            fs.wait_until(|c, _| c.calls(Op::Read) >= 1);
            file.blocking().set_len(1000).expect("cut");
            file.blocking().set_len(SIZE as u64).expect("grow");
            gate.release();
            reader.join().expect("no panic");
        });
        assert_eq!(read(&file, 0, SIZE), expected);
        bench.drain();
        bench.netfs().drop_memory();
        assert_eq!(read(&file, 0, SIZE), expected);
        drop(file);
        bench.shutdown();
        let bench = Bench::new(&fs, place.backend());
        bench.check("f", 0, SIZE);
        bench.shutdown();
    }
}
