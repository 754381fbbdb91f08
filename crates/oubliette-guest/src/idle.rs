//! What a program that only waits holds of memory: not its own code.
//!
//! A sandbox waits nearly all of its life, for a person or a model, and its launcher and guest with it. Starting touches
//! most of their code once, and it stays mapped: two megabytes for each of them. So both let go of it as the last thing
//! before a long wait; what the next step needs is mapped again when it runs, from the file, within microseconds.

#![expect(unsafe_code, reason = "pages are given back by address")]

use std::ffi::c_void;

/// Where this program's code and constants are.
#[derive(Debug)]
pub(crate) struct Code {
    /// Addresses and lengths. Found beforehand, so that letting go runs next to nothing, which would be mapped again.
    ranges: Vec<(*mut c_void, usize)>,
}

// SAFETY: the addresses are never read or written; they name what all threads share.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

// === impl Code ===

impl Code {
    /// Finds it.
    pub(crate) fn find() -> Self {
        let mut ranges = Vec::new();
        // SAFETY: the callback is for this type, keeps nothing, and the pointer is to a local that outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(note_fixed), (&raw mut ranges).cast()) };
        Self { ranges }
    }

    /// Lets go of it.
    #[inline]
    pub(crate) fn forget(&self) {
        for (address, length) in &self.ranges {
            // SAFETY: the range is a private mapping of a file, never written, so that its pages come back as they were.
            // What is not let go costs memory and nothing else.
            unsafe { rustix::mm::madvise(*address, *length, rustix::mm::Advice::LinuxDontNeed) }.ok();
        }
    }
}

/// Notes the segments that are never written of one object. The first is the program; nonzero ends the walk.
unsafe extern "C" fn note_fixed(info: *mut libc::dl_phdr_info, _: usize, ranges: *mut c_void) -> libc::c_int {
    // SAFETY: the C library hands out a valid object, whose headers stay as long as it is loaded, and the pointer that
    // `find` gave.
    let (base, headers, ranges) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info.dlpi_addr, headers, &mut *ranges.cast::<Vec<(*mut c_void, usize)>>())
    };
    // Relocated constants lie in a writable segment: they are not in the file as they are in memory, and stay.
    let is_fixed =
        |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    let page = rustix::param::page_size();
    for header in headers.iter().filter(is_fixed) {
        let begin = usize::try_from(base + header.p_vaddr).unwrap_or(0);
        let end = begin + usize::try_from(header.p_memsz).unwrap_or(0);
        let begin = begin / page * page;
        if begin > 0 {
            ranges.push((std::ptr::with_exposed_provenance_mut(begin), end - begin));
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_on_without_the_code_that_it_let_go() {
        let code = Code::find();
        let bytes: usize = code.ranges.iter().map(|(_, length)| length).sum();
        assert!(bytes > 100_000, "this test is larger than that: {bytes}");
        let text = "constants too".to_owned();
        for _ in 0..100 {
            code.forget();
            assert_eq!(text.split(' ').collect::<Vec<_>>(), ["constants", "too"]);
        }
    }
}
