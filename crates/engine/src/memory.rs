//! What the system says about memory. The only file of this crate that asks the system anything.

/// Bytes that could be used without swapping; `None` where the system does not say.
pub fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// The most bytes of memory that this process has used at once; `None` where the system does not
/// say.
pub fn peak() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Forgets the past, so that [`peak`] tells what was used from now on. `false` where the system cannot.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A field of a Linux `/proc` file, given there in KiB.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}
