//! Whole objects: directories and symbolic links whose content is one blob (row 44).

use bytes::{Bytes, BytesMut};

use super::{
    MAX_REPLANS, Who,
    buffered::{Reader, run_transient},
    fetch::{Fetch, Plan, Span, Target, Transient, len_of, version_of},
};
use crate::{
    error::{Errno, Error, Result},
    folio::{Origin, memory::FillBuf},
    fscache::{Cookie, Extent, ExtentKind},
    iomode::Mode,
    remote::IoLimits,
    request::plan,
    sync::Arc,
};

/// Largest object read whole.
const SINGLE_MAX: u64 = 64 << 20;

/// The whole content, from the disk cache if all of it is there, else with one server read per
/// attempt (N-C18): a hole in the cache sends all of it to the server.
pub(crate) async fn read(who: &Who, cookie: Option<&Arc<Cookie>>) -> Result<Bytes> {
    let inode = &who.inode;
    let _mode = who.enter(Mode::Buffered, 0..0).await?;
    inode.ensure_valid(&who.remote, &who.cx).await?;
    inode.core.counters.read_single.inc();
    let reader = Reader { who, cookie, ahead: None };
    for _ in 0..MAX_REPLANS {
        let mark = who.settled().await?;
        let size = inode.sizes.load().i_size;
        if size == 0 {
            return Ok(Bytes::new());
        }
        if size > SINGLE_MAX {
            return Err(Error::new(
                Errno::EFBIG,
                format!("{size} bytes are too many to read as one object (at most {SINGLE_MAX})"),
            ));
        }
        let read = once(&reader, size).await?;
        // New bytes with the old end would be of no version.
        if read.replan || !inode.unchanged(mark) {
            continue;
        }
        let slices = read.reaching(size)?;
        let mut out = BytesMut::with_capacity(len_of(&(0..size)));
        slices.iter().for_each(|s| out.extend_from_slice(s));
        out.truncate(len_of(&(0..size)));
        return Ok(out.freeze());
    }
    Err(Error::new(Errno::ESTALE, "the object changes faster than it can be read; try again"))
}

async fn once(reader: &Reader<'_>, size: u64) -> Result<Transient> {
    let inode = &reader.who.inode;
    inode.core.check_open()?;
    let sizes = inode.sizes.load();
    let pages = plan::page_out(&(0..size));
    let access = reader.access().await;
    let epoch = inode.cell.sample();
    let of = version_of(access.as_ref());
    let mut extents = access.as_ref().map(|a| a.object().extents(0..size));
    if let Some(known) = &mut extents {
        let hole = |e: &Extent| !matches!(e.kind, ExtentKind::Data | ExtentKind::Zero);
        if known.iter().any(hole) {
            // All or nothing: one call fetches the object in one version.
            let all = Extent { range: 0..size, kind: ExtentKind::Absent };
            *known = std::iter::once(all).collect();
        }
    }
    let slices = plan::plan(pages.clone(), &sizes, extents.as_ref());
    // Asked as for every request, but one call fetches the object in one version (N-C18).
    let limits = IoLimits { rsize: u64::MAX, ..reader.who.remote.limits() };
    let plan = Plan { slices, sizes, epoch, access, of, limits, ahead: false };
    let new = inode.core.folios.transient(len_of(&pages));
    let (fill, mem) = FillBuf::whole(new, len_of(&pages));
    let span = Span { range: pages, target: Target::Transient(mem), origin: Origin::Bypass };
    let fetch = Fetch::new(reader.who.clone(), plan, vec![span], fill);
    run_transient(fetch, reader).await
}
