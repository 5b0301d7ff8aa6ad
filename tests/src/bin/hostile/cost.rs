//! What this process uses, as Linux counts it.

use rustix::time::{ClockId, clock_gettime};

use super::Failure;

/// Memory of this process that is in use now, bytes.
pub(super) fn memory_bytes() -> Result<u64, Failure> {
    status("VmRSS:")
}

/// The most memory that it used since [`forget_peak`], bytes.
pub(super) fn peak_bytes() -> Result<u64, Failure> {
    status("VmHWM:")
}

/// Counts the peak anew from here.
pub(super) fn forget_peak() -> Result<(), Failure> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// CPU time of this process and of the compilers that it has run, milliseconds.
pub(super) fn cpu_ms() -> Result<u64, Failure> {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let own_ms = own.tv_sec.unsigned_abs() * 1000 + own.tv_nsec.unsigned_abs() / 1_000_000;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields are counted behind the name, which may hold anything: `cutime` and `cstime` are the 16th and 17th.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok(own_ms + (ticks(13) + ticks(14)) * 10)
}

fn status(key: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
