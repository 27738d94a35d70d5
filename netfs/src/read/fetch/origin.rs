//! Where a fetch's bytes came from in the end, for the statistics: the plan says only where they should
//! come from, and a disk read that fails makes them the server's.

use super::*;

impl Origin {
    /// As what bytes count that the server has to send because the disk answered so.
    pub(crate) fn of_miss(miss: CacheMiss) -> Origin {
        match miss {
            CacheMiss::Corrupt => Origin::Corruption,
            CacheMiss::Stale => Origin::Coherency,
            CacheMiss::Absent => Origin::Capacity,
            _ => Origin::Fault,
        }
    }

    /// As what bytes of `source` count; those of the server were missed for `reason`.
    pub(crate) fn of_source(source: Source, reason: Origin) -> Origin {
        match source {
            Source::Zero => Origin::Zero,
            Source::Cache => Origin::Disk,
            Source::Server => reason,
        }
    }
}

impl Fetch {
    /// Remembers why the bytes of a failed cache read come from the server now.
    pub(super) fn note_miss(&mut self, index: usize, miss: CacheMiss) {
        // A sub of the cache fails once, for then it is the server's: these ranges never overlap.
        self.missed.push((self.req.sub(index).range.clone(), Origin::of_miss(miss)));
    }

    /// What a folio's bytes came from: one of them that failed its disk read counts for all.
    pub(super) fn origin_of(&self, span: &Span) -> Origin {
        let range = &span.range;
        let missed = self.missed.iter().find(|(r, _)| r.start < range.end && range.start < r.end);
        missed.map_or(span.origin, |(_, why)| *why)
    }

    /// What each byte came from, by the subs that brought them; in no order. What no disk read had
    /// failed for before counts as its span says.
    pub(super) fn sources(&self) -> Sources {
        let mut out = Sources::new();
        let reason = self.spans.first().map_or(Origin::Bypass, |s| s.origin);
        for sub in self.req.subs().iter().filter(|s| !s.range.is_empty()) {
            if sub.source != Source::Server {
                out.push((sub.range.clone(), Origin::of_source(sub.source, reason)));
                continue;
            }
            // A retry may join what two disk reads had failed for, or leave what none had.
            let mut missed: SmallVec<[_; 4]> = self
                .missed
                .iter()
                .map(|(r, why)| (r.start.max(sub.range.start)..r.end.min(sub.range.end), *why))
                .filter(|(r, _)| !r.is_empty())
                .collect();
            missed.sort_by_key(|(r, _)| r.start);
            let mut at = sub.range.start;
            for (range, why) in missed {
                out.push((at..range.start, reason));
                at = range.end;
                out.push((range, why));
            }
            out.push((at..sub.range.end, reason));
        }
        out
    }
}
