//! Which formats there are, and how a trace shows its own.

use std::{fmt, str::FromStr};

use super::{TraceError, arc, blocks, collect::Record, csv, error::Malformed, field::Fields};

/// A trace's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// ARC `.lis`: first block, count, ignored, number; blocks of 512 bytes of one file.
    Arc,
    /// The same where every request is one block of unstated size (OLTP): the numbers are keys, each a
    /// page of one file, with no neighbours. Chosen by itself for an ARC trace without any longer request.
    ArcPages,
    /// One block number a line (sprite): keys, each a page of one file, with no neighbours.
    Blocks,
    /// `version,time,op,size,lbn`: SCSI commands to one virtual disk.
    Vscsi,
    /// `time_s,client,server,file,op,offset,bytes`: NFS requests.
    Nfs,
    /// Meta Tectonic samples (`op_time,block_id,...`); a block is a file.
    Tectonic,
    /// `time,file,op,offset,bytes`.
    Plain,
    /// Made by [`Spec`](super::Spec); never read.
    Generated,
}

impl Format {
    /// The names of what can be read, as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 7] =
        ["arc", "arc-pages", "blocks", "vscsi", "nfs", "tectonic", "plain"];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Arc => "arc",
            Format::ArcPages => "arc-pages",
            Format::Blocks => "blocks",
            Format::Vscsi => "vscsi",
            Format::Nfs => "nfs",
            Format::Tectonic => "tectonic",
            Format::Plain => "plain",
            Format::Generated => "generated",
        }
    }

    /// The header line, in formats that have one.
    fn header(self) -> Option<&'static [u8]> {
        match self {
            Format::Vscsi => Some(csv::VSCSI),
            Format::Nfs => Some(csv::NFS),
            Format::Tectonic => Some(csv::TECTONIC),
            Format::Plain => Some(csv::PLAIN),
            Format::Arc | Format::ArcPages | Format::Blocks | Format::Generated => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Format, TraceError> {
        use Format::{Arc, ArcPages, Blocks, Nfs, Plain, Tectonic, Vscsi};
        let all = [Arc, ArcPages, Blocks, Vscsi, Nfs, Tectonic, Plain];
        let known = || format!("{text:?} is no trace format: use {}", Format::NAMES.join(", "));
        all.into_iter().find(|f| f.name() == text).ok_or_else(|| TraceError::Unknown(known()))
    }
}

/// Reads lines of one format.
pub(super) struct Parser {
    format: Format,
    /// The format was not given by the user but found.
    detected: bool,
    first: bool,
}

impl Parser {
    /// A given format. Its header may be missing.
    pub(super) fn new(format: Format) -> Parser {
        Parser { format, detected: false, first: true }
    }

    /// The format that a trace's first line (not empty) shows.
    pub(super) fn detect(line: &[u8]) -> Option<Parser> {
        let with_header = [Format::Vscsi, Format::Nfs, Format::Tectonic, Format::Plain];
        let by_header = with_header.into_iter().find(|f| f.header() == Some(line));
        let format = by_header.or_else(|| match numbers(line)? {
            4 => Some(Format::Arc),
            1 => Some(Format::Blocks),
            _ => None,
        })?;
        Some(Parser { format, detected: true, first: true })
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether the trace is to be looked at as a whole: ARC and ARC of pages look alike.
    pub(super) fn may_be_pages(&self) -> bool {
        self.detected && self.format == Format::Arc
    }

    /// Parses one line that is not empty.
    pub(super) fn line<'a>(&mut self, line: &'a [u8]) -> Result<Record<'a>, Malformed> {
        if std::mem::take(&mut self.first) && self.format.header() == Some(line) {
            return Ok(Record::Nothing);
        }
        match self.format {
            Format::Arc => arc::sectors(line),
            Format::ArcPages => arc::pages(line),
            Format::Blocks => blocks::line(line),
            Format::Vscsi => csv::vscsi(line),
            Format::Nfs => csv::nfs(line),
            Format::Tectonic => csv::tectonic(line),
            Format::Plain => csv::plain(line),
            Format::Generated => Err(Malformed::new("format", "generated is never read", line)),
        }
    }
}

/// How many numbers the line consists of; a comment of a block list counts as one.
fn numbers(line: &[u8]) -> Option<usize> {
    let comment = |b: &u8| b.is_ascii_digit() || b.is_ascii_whitespace() || *b == b'*';
    if line.contains(&b'*') && line.iter().all(comment) {
        return Some(1);
    }
    let mut fields = Fields::words(line);
    for count in 1..=4 {
        fields.number("number").ok()?;
        if fields.is_empty() {
            return Some(count);
        }
    }
    None
}
