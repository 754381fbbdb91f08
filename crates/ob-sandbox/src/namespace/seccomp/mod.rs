//! System calls that a sandbox is denied, compiled once into the form that bubblewrap loads.
//!
//! A deny list: the walls are the namespaces; this takes away what would weaken them (set-id bits, new namespaces and
//! mounts), what crosses them (vsock is not confined by a network namespace), and kernel surface that no build or
//! agent needs. A call whose arguments lie in memory cannot be judged here, so it is answered as unknown, and the C
//! library falls back to one that can (`clone3` to `clone`, `openat2` to `openat`). What is denied is [`table`]; this
//! only compiles it.
//!
//! Programs for another architecture than the host's are killed: their call numbers mean other calls.

mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpArgLen::Qword;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;
use seccompiler::sock_filter;

pub use self::table::Answer;
pub use self::table::Call;
pub use self::table::DENIALS;
pub use self::table::Denial;
pub use self::table::When;

use self::table::CREATING;
use self::table::FILE_TYPE;
use self::table::SET_ID_BITS;

/// The bit of a call number that selects the x32 table on x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// Could not be compiled for this machine.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    /// No table for the architecture.
    #[error("no system call filter for this processor architecture")]
    Architecture(#[source] seccompiler::BackendError),
    /// A rule is wrong.
    #[error("the system call filter does not compile")]
    Compile(#[source] seccompiler::BackendError),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Compiled<T> = Result<T, seccompiler::BackendError>;

/// The filters, as bytes for `--add-seccomp-fd`, all of which apply: one for each answer.
pub(super) fn filters() -> Result<Vec<Vec<u8>>, FilterError> {
    filters_of(DENIALS)
}

/// A call's name without what the C library puts before it.
pub fn name(call: &Call) -> &'static str {
    call.0.strip_prefix("SYS_").unwrap_or(call.0)
}

fn filters_of(denials: &[Denial]) -> Result<Vec<Vec<u8>>, FilterError> {
    let mut filters = Vec::new();
    for answer in Answer::ALL {
        let mut rules = Rules::new();
        for denial in denials.iter().filter(|denial| denial.answer == answer) {
            for (_, number) in denial.calls {
                let more = rules_of(denial.when).map_err(FilterError::Compile)?;
                rules.entry(*number).or_default().extend(more);
            }
        }
        if !rules.is_empty() {
            filters.push(compile(answer, rules)?);
        }
    }
    Ok(filters)
}

/// The rules of which one must match; none is a match in any case.
fn rules_of(when: When) -> Compiled<Vec<SeccompRule>> {
    let is = |place: u8, value: u64| SeccompCondition::new(place, Dword, SeccompCmpOp::Eq, value);
    let is_not = |place: u8, value: u64| SeccompCondition::new(place, Dword, SeccompCmpOp::Ne, value);
    let masked = |place: u8, mask: u64, value: u64| {
        SeccompCondition::new(place, Dword, SeccompCmpOp::MaskedEq(mask), value)
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::AnyBit(place, bits) => {
            bits.iter().map(|bit| SeccompRule::new(vec![masked(place, *bit, *bit)?])).collect()
        }
        When::OneOf(place, values) => {
            values.iter().map(|value| SeccompRule::new(vec![is(place, *value)?])).collect()
        }
        When::NoneOf(place, values) => {
            let all = values.iter().map(|value| is_not(place, *value)).collect::<Compiled<_>>()?;
            Ok(vec![SeccompRule::new(all)?])
        }
        When::Protocol(family, protocols) => {
            let mut all = vec![is(0, family)?];
            for protocol in protocols {
                all.push(is_not(2, *protocol)?);
            }
            Ok(vec![SeccompRule::new(all)?])
        }
        When::MakesSetId(flags, mode) => {
            let mut rules = Vec::new();
            for creating in CREATING {
                for bit in SET_ID_BITS {
                    let both = vec![masked(flags, creating, creating)?, masked(mode, bit, bit)?];
                    rules.push(SeccompRule::new(both)?);
                }
            }
            Ok(rules)
        }
        When::MakesType(mode, types) => {
            types.iter().map(|kind| SeccompRule::new(vec![masked(mode, FILE_TYPE, *kind)?])).collect()
        }
        When::SetsBound(place, bound, address) => {
            let is_set = SeccompCondition::new(address, Qword, SeccompCmpOp::Ne, 0)?;
            Ok(vec![SeccompRule::new(vec![is(place, bound)?, is_set])?])
        }
    }
}

fn compile(answer: Answer, rules: Rules) -> Result<Vec<u8>, FilterError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(FilterError::Architecture)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(answer.errno().unsigned_abs()),
        architecture,
    )
    .map_err(FilterError::Compile)?;
    let program: BpfProgram = filter.try_into().map_err(FilterError::Compile)?;
    Ok(x32_killer(architecture).iter().chain(&program).flat_map(bytes).collect())
}

/// The x32 table has the architecture of x86-64 and other numbers; the compiler does not know of it. Jumps are
/// relative, so this may stand in front.
fn x32_killer(architecture: TargetArch) -> Vec<sock_filter> {
    if architecture != TargetArch::x86_64 {
        return Vec::new();
    }
    let load_word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    vec![
        sock_filter { code: load_word, jt: 0, jf: 0, k: 0 },
        sock_filter { code: jump_if_at_least, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
    ]
}

/// An instruction as the kernel reads it.
fn bytes(instruction: &sock_filter) -> [u8; 8] {
    let [c0, c1] = instruction.code.to_ne_bytes();
    let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}
