//! The filters, run instruction by instruction as the kernel would: each denial denies what it says and nothing else, and
//! without it, nothing does.

use std::fmt::Write as _;

use super::*;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64`.
const ARCHITECTURE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// `AUDIT_ARCH_I386`.
const OTHER_ARCHITECTURE: u32 = 0x4000_0003;

/// What the kernel hands to a filter: number, architecture, instruction pointer, arguments.
fn data(architecture: u32, number: i64, arguments: &[u64; 6]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(u32::try_from(number).expect("a call's number").to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    data
}

/// The answer of one filter: the classic BPF that such filters use.
fn run(filter: &[u8], data: &[u8]) -> u32 {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let instruction: [u8; 8] = filter[at * 8..at * 8 + 8].try_into().expect("eight bytes");
        let [c0, c1, jump_true, jump_false, k @ ..] = instruction;
        let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes(k));
        at += 1;
        let mut jump = |is_true: bool| at += usize::from(if is_true { jump_true } else { jump_false });
        match code {
            LOAD => {
                let from = k as usize;
                accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
            }
            AND => accumulator &= k,
            RETURN => return k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            other => panic!("the filter has the unexpected instruction {other:#x}"),
        }
    }
}

/// What all filters together answer: the kernel takes the strictest.
fn verdict(filters: &[Vec<u8>], number: i64, arguments: &[u64; 6]) -> Option<i32> {
    let data = data(ARCHITECTURE, number, arguments);
    let mut answers =
        filters.iter().map(|filter| run(filter, &data)).filter(|a| *a != libc::SECCOMP_RET_ALLOW);
    let answer = answers.next()?;
    assert_eq!(answers.next(), None, "one filter alone answers call {number} {arguments:?}");
    assert_eq!(answer & 0xffff_0000, libc::SECCOMP_RET_ERRNO, "call {number} {arguments:?}");
    Some(i32::try_from(answer & 0xffff).expect("an error number"))
}

#[test]
fn each_denial_denies_what_it_says_and_lets_the_rest_pass() {
    let filters = filters().expect("this machine's architecture has a table");
    for denial in DENIALS {
        for call in denial.calls {
            for arguments in denial.when.denied() {
                let answer = verdict(&filters, call.1, &arguments);
                assert_eq!(answer, Some(denial.answer.errno()), "{} {arguments:?}", name(call));
            }
            for arguments in denial.when.allowed() {
                assert_eq!(verdict(&filters, call.1, &arguments), None, "{} {arguments:?}", name(call));
            }
        }
    }
}

#[test]
fn without_a_denial_its_calls_pass() {
    for (left_out, denial) in DENIALS.iter().enumerate() {
        let rest: Vec<Denial> =
            DENIALS.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, d)| *d).collect();
        let filters = filters_of(&rest).expect("compiles");
        for call in denial.calls {
            for arguments in denial.when.denied() {
                assert_eq!(verdict(&filters, call.1, &arguments), None, "{} {arguments:?}", name(call));
            }
        }
    }
}

#[test]
fn calls_that_programs_need_pass() {
    let filters = filters().expect("compiles");
    for number in [
        libc::SYS_read,
        libc::SYS_execve,
        libc::SYS_mmap,
        libc::SYS_futex,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_seccomp,
        libc::SYS_inotify_init1,
        libc::SYS_memfd_create,
        libc::SYS_epoll_create1,
        libc::SYS_renameat2,
        libc::SYS_statx,
        libc::SYS_copy_file_range,
    ] {
        assert_eq!(verdict(&filters, number, &[0; 6]), None, "{number}");
    }
    // `fork`, and a thread.
    for flags in [0x0120_0011, 0x003d_0f00] {
        assert_eq!(verdict(&filters, libc::SYS_clone, &[flags, 0, 0, 0, 0, 0]), None, "{flags:#x}");
    }
}

#[test]
fn calls_of_another_architecture_end_the_process() {
    for filter in filters().expect("compiles") {
        let answer = run(&filter, &data(OTHER_ARCHITECTURE, libc::SYS_read, &[0; 6]));
        assert_eq!(answer, libc::SECCOMP_RET_KILL_PROCESS);
        let answer = run(&filter, &data(ARCHITECTURE, libc::SYS_read, &[0; 6]));
        assert_eq!(answer, libc::SECCOMP_RET_ALLOW, "the control");
        if cfg!(target_arch = "x86_64") {
            let x32 = i64::from(X32_BIT) | libc::SYS_read;
            assert_eq!(run(&filter, &data(ARCHITECTURE, x32, &[0; 6])), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}

#[test]
fn a_call_that_is_always_denied_has_no_other_entry_that_would_undo_that() {
    for denial in DENIALS.iter().filter(|denial| denial.when == When::Always) {
        for call in denial.calls {
            let entries = DENIALS.iter().filter(|other| other.calls.iter().any(|c| c.1 == call.1)).count();
            assert_eq!(entries, 1, "{}: rules of another entry would narrow this one", name(call));
        }
    }
}

#[test]
fn the_filters_fit_the_kernels_limit() {
    for filter in filters().expect("compiles") {
        assert_eq!(filter.len() % 8, 0);
        assert!(filter.len() / 8 <= 4096, "the kernel takes at most 4096 instructions");
    }
}

/// The table for people, in Markdown; calls that are denied alike share a line.
fn page(denials: &[Denial]) -> String {
    let mut lines: Vec<(&Denial, Vec<String>)> = Vec::new();
    for denial in denials {
        let names = denial.calls.iter().map(|call| format!("`{}`", name(call)));
        let is_alike = |other: &Denial| {
            let key = |one: &Denial| (one.about, one.when.to_string(), one.answer, one.reason);
            key(other) == key(denial)
        };
        match lines.iter_mut().find(|(other, _)| is_alike(other)) {
            Some((_, all)) => all.extend(names),
            None => lines.push((denial, names.collect())),
        }
    }
    let mut page = "| what | calls | when | answer | why |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (Denial { about, when, answer, reason, .. }, names) in &lines {
        let (names, answer) = (names.join(" "), answer.name());
        writeln!(page, "| {about} | {names} | {when} | {answer} | {reason} |").expect("a string takes it");
    }
    page
}

#[test]
fn the_page_for_users_has_this_table() {
    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandbox.md");
    const BEGIN: &str =
        "<!-- denied system calls: made by `UPDATE_DOCS=1 cargo test -p ob-sandbox --lib` -->\n";
    const END: &str = "<!-- end of denied system calls -->\n";
    let is = std::fs::read_to_string(DOCUMENT).expect("the page");
    let (before, rest) = is.split_once(BEGIN).expect("the table's begin");
    let (_, after) = rest.split_once(END).expect("the table's end");
    let should = format!("{before}{BEGIN}\n{}\n{END}{after}", page(DENIALS));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(DOCUMENT, &should).expect("written");
        return;
    }
    assert!(is == should, "docs/sandbox.md is not what the table says: run with UPDATE_DOCS=1");
}
