//! Traces from a few words: `zipf+scan+loop,requests=20000,files=256,seed=1`.
//!
//! Integers only, so that one specification is one trace on every machine.

use std::{fmt, str::FromStr};

use super::{Format, Op, PAGE, Request, Trace, TraceError, TraceFile, input::sum_of};

/// What a generated trace consists of.
///
/// Three kinds of access take turns, as far as they are wanted:
///
/// - `zipf`: 4 to 64 KiB at any page of a file; file number r is 1/r as popular as the first.
/// - `scan`: every file from its beginning to its end, one after the other, 64 KiB at a time.
/// - `loop`: one eighth of the files (at least one) over and over, 16 KiB at a time.
///
/// Files have 64 KiB to 2 MiB. ([`FromStr`] reads a specification, [`Display`](fmt::Display) prints all
/// of it.)
///
/// ```
/// use netfs_bench::trace::Spec;
/// let spec: Spec = "zipf+scan,requests=100,files=8,seed=7".parse()?;
/// let trace = spec.generate();
/// assert_eq!((trace.requests.len(), trace.seed), (100, 7));
/// assert_eq!(trace, spec.generate());
/// # Ok::<(), netfs_bench::trace::TraceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// Whether there are popular files.
    pub zipf: bool,
    /// Whether there is a scan.
    pub scan: bool,
    /// Whether there is a loop.
    pub looped: bool,
    /// How many requests, 1 to 10^8.
    pub requests: u64,
    /// How many files, 1 to 10^6.
    pub files: u32,
    /// Percent of the requests that write, 0 to 100.
    pub writes: u8,
    /// Seed of everything.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Spec {
        let all = true;
        let (requests, files, writes, seed) = (20_000, 256, 0, 1);
        Spec { zipf: all, scan: all, looped: all, requests, files, writes, seed }
    }
}

impl FromStr for Spec {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Spec, TraceError> {
        let bad = |why: String| {
            let form = "zipf+scan+loop[,requests=N][,files=N][,writes=PERCENT][,seed=N]";
            TraceError::Unknown(format!("generated trace {text:?}: {why}; the form is {form}"))
        };
        let mut parts = text.split(',');
        let kinds = parts.next().unwrap_or_default();
        let mut spec = Spec { zipf: false, scan: false, looped: false, ..Spec::default() };
        for kind in kinds.split('+') {
            match kind {
                "zipf" => spec.zipf = true,
                "scan" => spec.scan = true,
                "loop" => spec.looped = true,
                _ => return Err(bad(format!("{kind:?} is no kind of access"))),
            }
        }
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let max = match key {
                "requests" => 100_000_000,
                "files" => 1_000_000,
                "writes" => 100,
                "seed" => u64::from(u32::MAX),
                _ => return Err(bad(format!("there is no parameter {key:?}"))),
            };
            let min = u64::from(matches!(key, "requests" | "files"));
            let number = value.parse::<u64>().ok().filter(|n| (min..=max).contains(n));
            let range = || bad(format!("{key} must be a number from {min} to {max}"));
            let number = number.ok_or_else(range)?;
            match key {
                "requests" => spec.requests = number,
                "files" => spec.files = u32::try_from(number).map_err(|_| range())?,
                "writes" => spec.writes = u8::try_from(number).map_err(|_| range())?,
                _ => spec.seed = number,
            }
        }
        Ok(spec)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(self.zipf, "zipf"), (self.scan, "scan"), (self.looped, "loop")];
        let kinds: Vec<_> = kinds.iter().filter(|k| k.0).map(|k| k.1).collect();
        let Spec { requests, files, writes, seed, .. } = self;
        write!(f, "{},requests={requests},files={files},", kinds.join("+"))?;
        write!(f, "writes={writes},seed={seed}")
    }
}

impl Spec {
    /// The trace. One without any kind of access is all `zipf`.
    #[must_use]
    pub fn generate(&self) -> Trace {
        let mut chance = Chance(self.seed);
        let size = |chance: &mut Chance| PAGE * (16 + chance.below(497));
        let files: Vec<TraceFile> = (0..self.files.max(1))
            .map(|i| TraceFile { name: format!("f{i}"), size: size(&mut chance) })
            .collect();
        let mut kinds = Vec::new();
        if self.zipf || !(self.scan || self.looped) {
            kinds.push(Kind::Zipf(Zipf::new(files.len())));
        }
        if self.scan {
            kinds.push(Kind::Run(Run { files: files.len(), step: 64 << 10, at: (0, 0) }));
        }
        if self.looped {
            let hot = (files.len() / 8).max(1);
            kinds.push(Kind::Run(Run { files: hot, step: 16 << 10, at: (0, 0) }));
        }
        let mut requests = Vec::new();
        while (requests.len() as u64) < self.requests {
            let kind = chance.below(kinds.len() as u64) as usize;
            let mut request = kinds[kind].next(&files, &mut chance);
            if chance.below(100) < u64::from(self.writes) {
                request.op = Op::Write;
            }
            requests.push(request);
        }
        let name = format!("generated {self}");
        let sha256 = sum_of(&name);
        let format = Format::Generated;
        Trace { name, sha256, format, seed: self.seed, files, requests, ignored: 0 }
    }
}

enum Kind {
    Zipf(Zipf),
    Run(Run),
}

impl Kind {
    fn next(&mut self, files: &[TraceFile], chance: &mut Chance) -> Request {
        match self {
            Kind::Zipf(zipf) => zipf.next(files, chance),
            Kind::Run(run) => run.next(files),
        }
    }
}

/// Popular and unpopular files.
struct Zipf {
    /// Sums of the weights up to each file.
    sums: Vec<u64>,
}

impl Zipf {
    fn new(files: usize) -> Zipf {
        let mut sum = 0;
        let sums = (1..=files as u64).map(|rank| {
            sum += (1 << 32) / rank;
            sum
        });
        Zipf { sums: sums.collect() }
    }

    fn next(&self, files: &[TraceFile], chance: &mut Chance) -> Request {
        let all = self.sums.last().copied().unwrap_or(1);
        let at = chance.below(all);
        let file = self.sums.partition_point(|&sum| sum <= at);
        let offset = PAGE * chance.below(files[file].size / PAGE);
        let len = PAGE * (1 + chance.below(16));
        request(files, file, offset, len)
    }
}

/// Files one after the other, again and again.
struct Run {
    files: usize,
    step: u64,
    at: (usize, u64),
}

impl Run {
    fn next(&mut self, files: &[TraceFile]) -> Request {
        let (file, offset) = self.at;
        let request = request(files, file, offset, self.step);
        let end = offset + u64::from(request.len);
        self.at = if end < files[file].size { (file, end) } else { ((file + 1) % self.files, 0) };
        request
    }
}

fn request(files: &[TraceFile], file: usize, offset: u64, len: u64) -> Request {
    let len = len.min(files[file].size - offset);
    Request { offset, file: file as u32, len: len as u32, op: Op::Read }
}

/// Reproducible chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_specification_reads_back_what_it_prints() {
        for text in ["zipf+scan+loop", "loop,seed=9", "scan+zipf,files=3,requests=5,writes=10"] {
            let spec = spec(text);
            assert_eq!(spec.to_string().parse::<Spec>().ok(), Some(spec), "{text}");
        }
        assert_eq!(spec("zipf+scan+loop"), Spec::default());
    }

    #[test]
    fn a_wrong_specification_says_what_is_wrong() {
        for (text, part) in [
            ("", "\"\" is no kind"),
            ("zipf+scna", "\"scna\" is no kind"),
            ("zipf,files=0", "files must be a number from 1 to 1000000"),
            ("zipf,files", "files must be"),
            ("zipf,requests=-1", "requests must be"),
            ("zipf,size=4", "no parameter \"size\""),
            ("zipf,writes=101", "writes must be a number from 0 to 100"),
        ] {
            let error = text.parse::<Spec>().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn one_specification_is_one_trace() {
        let trace = spec("zipf+scan+loop,requests=500,files=16,seed=3").generate();
        assert_eq!(trace, spec("loop+zipf+scan,seed=3,files=16,requests=500").generate());
        assert_ne!(
            trace.requests,
            spec("zipf+scan+loop,requests=500,files=16,seed=4").generate().requests
        );
        // Known by its values, so that a change of the generator shows: old caches would be cold.
        let first: Vec<_> =
            trace.requests.iter().take(3).map(|r| (r.file, r.offset, r.len)).collect();
        assert_eq!(first, [(0, 0, 65536), (0, 0, 16384), (0, 16384, 16384)]);
    }

    #[test]
    fn every_request_lies_in_its_file_and_each_kind_does_what_it_says() {
        let trace = spec("zipf,requests=4000,files=50").generate();
        let mut hits = vec![0; 50];
        for r in &trace.requests {
            let file = &trace.files[r.file as usize];
            assert!(r.len > 0 && r.offset + u64::from(r.len) <= file.size);
            hits[r.file as usize] += 1;
        }
        assert!(hits[0] > 5 * hits[20] && hits[20] > 0, "{hits:?}");

        let trace = spec("scan,requests=2000,files=4").generate();
        let mut next = (0, 0);
        for r in &trace.requests {
            assert_eq!((r.file, r.offset), next);
            let end = r.offset + u64::from(r.len);
            let over = end == trace.files[r.file as usize].size;
            next = if over { ((r.file + 1) % 4, 0) } else { (r.file, end) };
        }

        let trace = spec("loop,requests=2000,files=16").generate();
        assert!(trace.requests.iter().all(|r| r.file < 2));
        let trace = spec("zipf,requests=2000,files=16,writes=25").generate();
        let writes = trace.requests.iter().filter(|r| r.op == Op::Write).count();
        assert!((400..600).contains(&writes), "{writes}");
    }
}
