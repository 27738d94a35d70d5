//! From records to a trace: names become numbers, accesses become sizes.

use std::collections::HashMap;

use super::{
    Format, Op, PAGE, REQUEST_BYTES_MAX, REQUESTS_MAX, Request, Trace, TraceError, TraceFile,
    error::Malformed, field::OFFSET_MAX, format::Parser,
};

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// A request.
    Request {
        /// Name of the file; empty in formats that have only one.
        file: &'a [u8],
        op: Op,
        offset: u64,
        len: u64,
    },
    /// Another kind of request.
    Ignored,
    /// A header or a comment.
    Nothing,
}

/// A trace in the making.
#[derive(Default)]
pub(super) struct Collector {
    numbers: HashMap<Box<[u8]>, u32>,
    files: Vec<TraceFile>,
    requests: Vec<Request>,
    ignored: u64,
    too_long: bool,
}

impl Collector {
    pub(super) fn add(&mut self, record: Record<'_>) -> Result<(), Malformed> {
        let (file, op, offset, len) = match record {
            Record::Request { len: 0, .. } | Record::Ignored => {
                self.ignored += 1;
                return Ok(());
            }
            Record::Nothing => return Ok(()),
            Record::Request { file, op, offset, len } => (file, op, offset, len),
        };
        let range = || format!("{offset} + {len}");
        if len > REQUEST_BYTES_MAX {
            let what = "more than 1 GiB in one request";
            return Err(Malformed::new("bytes", what, range().as_bytes()));
        }
        let end = offset.checked_add(len).filter(|&end| end <= OFFSET_MAX);
        let past = || Malformed::new("offset", "ends past 2^63-1", range().as_bytes());
        let end = end.ok_or_else(past)?;
        if self.requests.len() == REQUESTS_MAX {
            self.too_long = true;
            return Ok(());
        }
        let file = self.number(file)?;
        if let Some(known) = self.files.get_mut(file as usize) {
            known.size = known.size.max(end);
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX); // bounded above
        self.requests.push(Request { offset, file, len, op });
        Ok(())
    }

    fn number(&mut self, name: &[u8]) -> Result<u32, Malformed> {
        if let Some(&number) = self.numbers.get(name) {
            return Ok(number);
        }
        let many = |_| Malformed::new("file", "more than 2^32 files", name);
        let number = u32::try_from(self.files.len()).map_err(many)?;
        self.numbers.insert(name.into(), number);
        let name = String::from_utf8_lossy(name).into_owned();
        self.files.push(TraceFile { name, size: 0 });
        Ok(number)
    }

    /// The trace, without its sum.
    pub(super) fn finish(mut self, name: &str, parser: &Parser) -> Result<Trace, TraceError> {
        if self.too_long {
            return Err(TraceError::TooLong { trace: name.to_owned(), max: REQUESTS_MAX });
        }
        if self.requests.is_empty() {
            return Err(TraceError::empty(name));
        }
        let mut format = parser.format();
        if parser.may_be_pages() && self.requests.iter().all(|r| u64::from(r.len) == SECTOR) {
            self.pages_instead(name)?;
            format = Format::ArcPages;
        }
        if matches!(format, Format::ArcPages | Format::Blocks) {
            self.scatter();
        }
        Ok(Trace {
            name: name.to_owned(),
            sha256: String::new(),
            format,
            seed: 0,
            files: self.files,
            requests: self.requests,
            ignored: self.ignored,
        })
    }

    /// Numbers that are only keys say nothing of what lies beside what, although they often rise in the
    /// order of first use: left so, readahead would foresee every one. Each key gets a page of its own
    /// among as many as there are keys, neighbours far apart.
    fn scatter(&mut self) {
        if self.requests.iter().any(|r| u64::from(r.len) != PAGE) {
            return;
        }
        let mut places = HashMap::new();
        for request in &self.requests {
            let next = places.len() as u64;
            places.entry(request.offset).or_insert(next);
        }
        let n = places.len() as u64;
        for request in &mut self.requests {
            if let Some(&i) = places.get(&request.offset) {
                request.offset = scattered(i, n) * PAGE;
            }
        }
        for file in &mut self.files {
            file.size = n * PAGE;
        }
    }

    /// A list of single blocks of an unstated size is one of page numbers: see [`Format::ArcPages`].
    fn pages_instead(&mut self, name: &str) -> Result<(), TraceError> {
        let larger = PAGE / SECTOR;
        let fits = |size: u64| size.checked_mul(larger).filter(|&s| s <= OFFSET_MAX);
        for file in &mut self.files {
            file.size = fits(file.size).ok_or_else(|| {
                TraceError::Unknown(format!("{name}: a page number lies past 2^63-1 bytes"))
            })?;
        }
        for request in &mut self.requests {
            request.offset *= larger; // less than the size, which fitted
            request.len = PAGE as u32;
        }
        Ok(())
    }
}

/// Where the `i`th of `n` keys goes: a place of its own, far from its neighbours'.
fn scattered(i: u64, n: u64) -> u64 {
    // About the golden section of n, and without a common factor: so each place is used once.
    let mut step = (n as f64 * 0.618_033_988_75) as u64 | 1;
    while gcd(step, n) != 1 {
        step += 2;
    }
    (u128::from(i) * u128::from(step) % u128::from(n)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Block of ARC and SCSI traces in bytes.
pub(super) const SECTOR: u64 = 512;
