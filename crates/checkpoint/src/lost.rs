//! Mapped files that become shorter while they are read.
//!
//! Where a page of a map has no file behind it any more, the system answers an access with SIGBUS, which no caller can
//! handle: the bytes are a slice like any other. So the process ends, but with a line that says which file it was. The
//! handler calls only what may be called from one (POSIX.1-2017, "Signal Concepts", section 2.4.3): loads of atomics,
//! `write` and `_exit`. Faults elsewhere go to whoever handled them before.

#[cfg(not(unix))]
use std::path::Path;

#[cfg(unix)]
pub(crate) use unix::Watched;
#[cfg(unix)]
pub use unix::end_on_lost_pages;

/// Does nothing: this system has no such signal.
#[cfg(not(unix))]
pub fn end_on_lost_pages() -> std::io::Result<()> {
    Ok(())
}

/// A map that is known to the handler.
#[cfg(not(unix))]
pub(crate) struct Watched;

#[cfg(not(unix))]
impl Watched {
    pub(crate) fn new(_: &[u8], _: &Path) -> Self {
        Self
    }
}

#[cfg(unix)]
mod unix {
    use std::ffi::c_void;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    use libc::{c_int, sigaction, siginfo_t};

    /// Maps that are known at once. Further ones are not watched.
    const SLOTS: usize = 1024;

    /// A slot that is being filled: no map starts there.
    const TAKEN: usize = 1;

    /// What the handler knows of a map.
    struct Slot {
        /// Its address; 0 if there is none.
        start: AtomicUsize,
        length: AtomicUsize,
        name: AtomicPtr<u8>,
        name_length: AtomicUsize,
    }

    impl Slot {
        const fn empty() -> Self {
            Self {
                start: AtomicUsize::new(0),
                length: AtomicUsize::new(0),
                name: AtomicPtr::new(ptr::null_mut()),
                name_length: AtomicUsize::new(0),
            }
        }
    }

    static MAPS: [Slot; SLOTS] = [const { Slot::empty() }; SLOTS];

    /// What was done with the signal before.
    static BEFORE: OnceLock<sigaction> = OnceLock::new();

    /// A map that is known to the handler as long as this lives.
    pub(crate) struct Watched {
        slot: Option<&'static Slot>,
        /// Read by the handler.
        _name: Box<[u8]>,
    }

    impl Watched {
        /// `map` must stay mapped as long as this lives.
        pub(crate) fn new(map: &[u8], path: &Path) -> Self {
            let mut name: Box<[u8]> = path.as_os_str().as_bytes().into();
            // The terminal is not to be commanded by a name.
            name.iter_mut().filter(|byte| byte.is_ascii_control()).for_each(|byte| *byte = b'?');
            let free = |slot: &&Slot| {
                let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
                slot.start.compare_exchange(0, TAKEN, order, failed).is_ok()
            };
            let slot = MAPS.iter().find(free);
            if let Some(slot) = slot {
                slot.length.store(map.len(), Ordering::Relaxed);
                slot.name.store(name.as_mut_ptr(), Ordering::Relaxed);
                slot.name_length.store(name.len(), Ordering::Relaxed);
                slot.start.store(map.as_ptr().addr(), Ordering::Release);
            }
            Self { slot, _name: name }
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            // Nobody reads the map any more, so the handler does not read the name.
            if let Some(slot) = self.slot {
                slot.start.store(0, Ordering::Release);
            }
        }
    }

    /// Lets the process end with one line and exit code 1 when a mapped model file has become shorter than it was, or
    /// cannot be read from its disk. For programs, at their start; without it such a process is killed by SIGBUS.
    ///
    /// # Errors
    /// If the system refuses the handler.
    pub fn end_on_lost_pages() -> io::Result<()> {
        // SAFETY: all zeros is a valid value of this C structure (no flags, an empty mask).
        let (mut action, mut before): (sigaction, sigaction) = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both point to structures that live through the call.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        BEFORE.get_or_init(|| before);
        // SAFETY: as above; the handler has the signature that SA_SIGINFO asks for and is async-signal-safe.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    extern "C" fn on_bus(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: with SA_SIGINFO the system gives a valid structure, whose address field is set for SIGBUS.
        let address = unsafe { (*info).si_addr() }.addr();
        for slot in &MAPS {
            let start = slot.start.load(Ordering::Acquire);
            let length = slot.length.load(Ordering::Relaxed);
            if start <= TAKEN || address < start || address - start >= length {
                continue;
            }
            let name = slot.name.load(Ordering::Relaxed);
            say(b"error: ");
            // SAFETY: whoever reads the map right now keeps it, and so its `Watched`, alive.
            say(unsafe {
                std::slice::from_raw_parts(name, slot.name_length.load(Ordering::Relaxed))
            });
            say(b": became shorter while it was read, or its disk failed\n");
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(1) }
        }
        // Not ours. The access is made again when this returns, and goes to whoever handled the signal before.
        if let Some(before) = BEFORE.get() {
            // SAFETY: the structure is one that the system gave.
            unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
        }
    }

    /// Writes to standard error. If that fails, there is nowhere to complain.
    fn say(text: &[u8]) {
        // SAFETY: the slice is valid for its length.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }
}
