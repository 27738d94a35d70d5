//! Every format: what is read, how it is known, and what is said about malformed input.

use std::{fs, io::Write, path::Path};

use proptest::prelude::*;

use super::*;

const NFS: &str = "time_s,client,server,file,op,offset,bytes\n\
    1170089647.006510,0a403220,0a6e011a,87d8,read,19361792,16384\n\
    1170089647.006514,0a403220,0a6e011a,99aa,write,0,1526\n\
    1170089647.006525,0a403221,0a6e011a,87d8,read,4096,100\n";
const VSCSI: &str = "version,time,op,size,lbn\n\
    1,5633898,2a,512,42932745\n\
    1,5633899,28,4096,63\n\
    1,5633899,35,0,0\n";
const TECTONIC: &str = "op_time,block_id,block_id_size,io_size,io_offset,user_name,user_namespace,\
    op_name,op_count,host_name,rs_shard_id\n\
    1702511878,12ce-9e,40,8388608,0,42,34,getChunkData.NotInitialized,1,51,4\n\
    1702511879,cfb4-01,40,100,12288,42,34,putChunk.Permanent,1,26,0\n";
const PLAIN: &str = "time,file,op,offset,bytes\n0.5,a b,read,0,4096\n1,c,write,10,5\n";
const ARC: &str = "230027 8 0 0\n1842745 64 0 1\n";
const BLOCKS: &str = "*\n7\n\n0\n7\n";

fn parse(text: &str) -> Trace {
    read(text.as_bytes(), "t", None).unwrap_or_else(|e| panic!("{e}"))
}

/// (file, op, offset, len) of each request.
fn requests(trace: &Trace) -> Vec<(&str, char, u64, u32)> {
    let of = |r: &Request| {
        let op = if r.op == Op::Read { 'r' } else { 'w' };
        (trace.files[r.file as usize].name.as_str(), op, r.offset, r.len)
    };
    trace.requests.iter().map(of).collect()
}

#[test]
fn each_format_is_known_by_its_first_line_and_read_as_it_is_meant() {
    type Expected = (Format, &'static [(&'static str, char, u64, u32)], u64);
    let cases: [(&str, Expected); 6] = [
        (
            NFS,
            (
                Format::Nfs,
                &[
                    ("87d8", 'r', 19_361_792, 16384),
                    ("99aa", 'w', 0, 1526),
                    ("87d8", 'r', 4096, 100),
                ],
                0,
            ),
        ),
        (VSCSI, (Format::Vscsi, &[("", 'w', 42_932_745 * 512, 512), ("", 'r', 63 * 512, 4096)], 1)),
        (
            TECTONIC,
            (Format::Tectonic, &[("12ce-9e", 'r', 0, 8_388_608), ("cfb4-01", 'w', 12288, 100)], 0),
        ),
        (PLAIN, (Format::Plain, &[("a b", 'r', 0, 4096), ("c", 'w', 10, 5)], 0)),
        (
            ARC,
            (Format::Arc, &[("", 'r', 230_027 * 512, 4096), ("", 'r', 1_842_745 * 512, 32768)], 0),
        ),
        (
            BLOCKS,
            (Format::Blocks, &[("", 'r', 0, 4096), ("", 'r', 4096, 4096), ("", 'r', 0, 4096)], 0),
        ),
    ];
    for (text, (format, expected, ignored)) in cases {
        let trace = parse(text);
        assert_eq!((trace.format, trace.ignored), (format, ignored), "{text}");
        assert_eq!(requests(&trace), expected, "{text}");
        for (number, file) in trace.files.iter().enumerate() {
            let ends = trace.requests.iter().filter(|r| r.file as usize == number);
            let largest = ends.map(|r| r.offset + u64::from(r.len)).max();
            assert_eq!(Some(file.size), largest, "{text}: as large as its largest access");
        }
        // Line ends of other systems, and a last line without one.
        assert_eq!(parse(text.replace('\n', "\r\n").trim_end()).requests, trace.requests);
        // The format by name, with and without its header.
        let named = |text: &str| read(text.as_bytes(), "t", Some(format)).map(|t| t.requests);
        assert_eq!(named(text).ok().as_ref(), Some(&trace.requests));
        if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let without = text.split_once('\n').unwrap().1;
            assert_eq!(named(without).ok(), Some(trace.requests), "{text}");
        }
    }
}

#[test]
fn an_arc_trace_of_single_blocks_only_is_one_of_page_numbers() {
    let trace = parse("5 1 0 0\n6 1 0 1\n");
    assert_eq!(trace.format, Format::ArcPages);
    assert_eq!(requests(&trace), [("", 'r', 0, 4096), ("", 'r', 4096, 4096)]);
    assert_eq!(trace.files[0].size, 2 * 4096);
    let named = |format| read(&b"5 1 0 0\n"[..], "t", Some(format)).unwrap();
    assert_eq!(requests(&named(Format::Arc)), [("", 'r', 5 * 512, 512)]);
    assert_eq!(requests(&named(Format::ArcPages)), [("", 'r', 0, 4096)]);
    assert_eq!(parse("5 1 0 0\n6 2 0 1\n").format, Format::Arc);
}

#[test]
fn keys_get_a_page_each_and_neighbours_lie_far_apart() {
    for n in [1u64, 2, 3, 10, 100, 7075, 10_000] {
        let text: String = (0..n).chain(0..n).map(|i| format!("{}\n", i + 5)).collect();
        let trace = parse(&text);
        let pages: Vec<_> = trace.requests.iter().map(|r| r.offset / 4096).collect();
        let (first, again) = pages.split_at(n as usize);
        assert_eq!(first, again, "a key is always the same page");
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!((distinct.len() as u64, trace.files[0].size), (n, n * 4096));
        let apart = first.windows(2).map(|w| w[0].abs_diff(w[1])).min().unwrap_or(n);
        assert!(apart >= n / 3, "{apart} of {n}");
    }
}

#[track_caller]
fn refused(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        let error = read(text.as_bytes(), "t", None).err().map(|e| e.to_string());
        let error = error.unwrap_or_else(|| panic!("{text:?} was read"));
        assert!(error.starts_with(expected), "{text:?}:\n{error}\n{expected}");
    }
}

#[test]
fn malformed_fields_are_errors_that_name_line_field_and_what_was_found() {
    let nfs = |line: &str| format!("time_s,client,server,file,op,offset,bytes\n{line}\n");
    let plain = |line: &str| format!("time,file,op,offset,bytes\n0,a,read,0,1\n{line}\n");
    let vscsi = |line: &str| format!("version,time,op,size,lbn\n{line}\n");
    refused(&[
        (
            nfs("1,c,s,f,read,-5,10"),
            "t: line 2: offset: must be a whole number from 0 to 2^63-1, found \"-5\"",
        ),
        (nfs("1,c,s,f,peek,5,10"), "t: line 2: op: must be read or write, found \"peek\""),
        (nfs("1,c,s,,read,5,10"), "t: line 2: file: must not be empty, found \"\""),
        (nfs("1,c,s,f,read,5"), "t: line 2: bytes: missing, found \"\""),
        (
            nfs("yesterday,c,s,f,read,5,1"),
            "t: line 2: time_s: must be a time in seconds, found \"yesterday\"",
        ),
        (plain("1,f,read,0,1,2"), "t: line 3: line: has more fields than its format, found \"2\""),
        (
            plain("1,f,read,0x10,1"),
            "t: line 3: offset: must be a whole number from 0 to 2^63-1, found \"0x10\"",
        ),
        (
            plain("1,f,read,9223372036854775807,1"),
            "t: line 3: offset: ends past 2^63-1, found \"9223372036854775807 + 1\"",
        ),
        (
            plain("1,f,read,18446744073709551615,1"),
            "t: line 3: offset: must be a whole number from",
        ),
        (
            plain("1,f,read,0,1073741825"),
            "t: line 3: bytes: more than 1 GiB in one request, found \"0 +",
        ),
        (plain("\u{0}\u{1}"), "t: line 3: time: must be a time in seconds, found \"\\0\\u{1}\""),
        (
            vscsi("1,5,zz,512,7"),
            "t: line 2: op: must be a SCSI opcode in hexadecimal, found \"zz\"",
        ),
        (vscsi("1,5,128,512,7"), "t: line 2: op: must be a SCSI opcode"),
        (vscsi("1,5,28,512,9223372036854775807"), "t: line 2: lbn: lies past 2^63-1 bytes, found"),
        (TECTONIC.replace("putChunk", "eatChunk"), "t: line 3: op_name: must be getChunkData.* or"),
    ]);
}

#[test]
fn malformed_numbers_and_unknown_formats_are_errors_too() {
    refused(&[
        ("1 2 3 4\n1 2 3\n".to_owned(), "t: line 2: request number: missing"),
        ("1 2 3 4\n1 x 3 4\n".to_owned(), "t: line 2: number of blocks: must be a whole number"),
        (
            "9223372036854775807 1 0 0\n".to_owned(),
            "t: line 1: first block: lies past 2^63-1 bytes",
        ),
        ("9223372036854775 1 0 0\n".to_owned(), "t: a page number lies past 2^63-1 bytes"),
        (
            "1\n2\nthree\n".to_owned(),
            "t: line 3: block: must be a whole number from 0 to 2^63-1, found \"three\"",
        ),
        ("1\n2 3\n".to_owned(), "t: line 2: line: has more fields than its format, found \"3\""),
        (
            "hello\n".to_owned(),
            "t: line 1: line: of no known format (--format names one), found \"hello\"",
        ),
        ("1 2\n".to_owned(), "t: line 1: line: of no known format"),
        (String::new(), "t: line 1: request: there is none, found the end of the file"),
        ("\n\n".to_owned(), "t: line 1: request: there is none"),
        ("* only\n".to_owned(), "t: line 1: line: of no known format"),
        ("***\n".to_owned(), "t: line 1: request: there is none"),
        (
            "time,file,op,offset,bytes\n0,a,read,5,0\n".to_owned(),
            "t: line 1: request: there is none",
        ),
    ]);
}

#[test]
fn a_long_field_is_shortened_in_the_message() {
    let text = format!(
        "time,file,op,offset,bytes\n1,{},eat,0,1\n1,f,{},0,1",
        "f".repeat(9000),
        "x".repeat(9000)
    );
    let error = read(text.as_bytes(), "t", None).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("line 2: op") && error.len() < 120, "{error}");
    let text = text.replace("eat", "read");
    let error = read(text.as_bytes(), "t", None).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("xxx...\"") && error.len() < 160, "{error}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn open_bytes(dir: &Path, bytes: &[u8]) -> Result<Trace, TraceError> {
    let path = dir.join("trace");
    fs::write(&path, bytes).unwrap();
    open(&path, None)
}

/// A trace too large for one read of any layer.
fn long_text() -> String {
    let mut text = String::from("time,file,op,offset,bytes\n");
    for i in 0..20_000u64 {
        text += &format!("{i},f{},read,{},4096\n", i * i % 97, i * 7919 % 4_000_037);
    }
    text
}

#[test]
fn compressed_traces_are_known_by_their_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let text = long_text();
    let plain = open_bytes(dir.path(), text.as_bytes()).unwrap();
    assert_eq!(plain.requests.len(), 20_000);
    let (first, second) = text.as_bytes().split_at(100_003);
    let skippable =
        [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zst(text.as_bytes())].concat();
    for (what, bytes) in [
        ("gzip", gzip(text.as_bytes())),
        ("zstd", zst(text.as_bytes())),
        ("gzip in two members", [gzip(first), gzip(second)].concat()),
        ("zstd in two frames", [zst(first), zst(second)].concat()),
        ("zstd behind a skippable frame", skippable),
    ] {
        let trace = open_bytes(dir.path(), &bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(trace.requests, plain.requests, "{what}");
        assert_ne!(trace.sha256, plain.sha256, "{what}: the sum is the file's");
    }
}

#[test]
fn the_sum_is_that_of_the_file_and_gives_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    // `printf '7\n' | sha256sum`
    let trace = open_bytes(dir.path(), b"7\n").unwrap();
    assert_eq!(trace.sha256, "10159baf262b43a92d95db59dae1f72c645127301661e0a3ce4e38b295a97c58");
    assert_eq!(trace.seed, 0x1015_9baf);
    assert!(trace.name.ends_with("/trace"));
}

#[test]
fn damaged_and_truncated_files_are_errors_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = long_text();
    for whole in [gzip(text.as_bytes()), zst(text.as_bytes())] {
        for cut in (1..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1]) {
            let error = open_bytes(dir.path(), &whole[..cut]).err();
            assert!(error.is_some(), "cut after {cut} of {} bytes", whole.len());
        }
        for at in (12..whole.len()).step_by(whole.len() / 40) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            // It is found, or it was in something that says nothing about the content.
            if let Ok(trace) = open_bytes(dir.path(), &flipped) {
                let same = trace.requests == parse(&text).requests;
                assert!(same || whole.starts_with(&[0x28]), "byte {at}");
            }
        }
    }
    let error = open_bytes(dir.path(), &zst(text.as_bytes())[..5000]).err().unwrap();
    assert!(matches!(error, TraceError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("damaged compressed data after line"), "{error}");
    let missing = open(&dir.path().join("missing"), None).err().unwrap();
    assert!(matches!(missing, TraceError::Io { .. }), "{missing}");
    let directory = open(dir.path(), None).err().unwrap();
    assert!(matches!(directory, TraceError::Io { .. }), "{directory}");
}

proptest! {
    /// What a fuzzer would find first.
    #[test]
    fn no_input_panics_and_what_is_read_is_within_bounds(
        start in prop::sample::select(vec!["", NFS, VSCSI, TECTONIC, PLAIN, ARC, BLOCKS]),
        junk in prop::collection::vec(prop::sample::select(b"0123456789,,,  \n\n*.-+xr\xffreadwite".to_vec()), 0..200),
    ) {
        let input = [start.as_bytes(), &junk].concat();
        if let Ok(trace) = read(&input[..], "t", None) {
            prop_assert!(!trace.requests.is_empty());
            for r in &trace.requests {
                let end = r.offset.checked_add(u64::from(r.len));
                let size = trace.files[r.file as usize].size;
                prop_assert!(r.len > 0 && u64::from(r.len) <= REQUEST_BYTES_MAX);
                prop_assert!(end.is_some_and(|e| e <= size) && size <= i64::MAX as u64);
            }
        }
    }
}

/// The counts that the collection's README gives.
#[test]
fn the_real_traces_have_the_known_counts() {
    let Some(dir) = std::env::var_os("NETFS_TRACES") else {
        eprintln!("NETFS_TRACES is not set: the real traces were not read");
        return;
    };
    let dir = Path::new(&dir);
    for (file, format, reads, writes, bytes) in [
        ("OLTP.lis.zst", Format::ArcPages, 914_145, 0, 914_145 * 4096),
        ("P3.lis.zst", Format::Arc, 238_578, 0, 2_003_095_552),
        ("cloudPhysicsIO.csv.zst", Format::Vscsi, 46_974, 66_898, 0),
        ("sprite.trace.gz", Format::Blocks, 133_996, 0, 133_996 * 4096),
        ("nfs-animation-set0.csv.zst", Format::Nfs, 8_997, 1, 147_138_310),
        ("tectonic_block_traces_1.csv.zst", Format::Tectonic, 599, 400, 0),
        ("tectonic_block_traces_2.csv.zst", Format::Tectonic, 579, 420, 0),
    ] {
        let trace = open(&dir.join(file), None).unwrap_or_else(|e| panic!("{e}"));
        let written = trace.requests.iter().filter(|r| r.op == Op::Write).count();
        assert_eq!(
            (trace.format, trace.requests.len() - written, written),
            (format, reads, writes),
            "{file}"
        );
        let asked: u64 = trace.requests.iter().map(|r| u64::from(r.len)).sum();
        assert!(bytes == 0 || asked == bytes, "{file}: {asked}");
    }
}
