//! The sandbox of a card that serves: what is left to a process that a hostile guest or client has taken over.
//!
//! Fed by `serve`, once everything is open and before any thread is started; feeds the kernel with a Landlock domain
//! and seccomp filters, for good. Inside, a process keeps the descriptors it has and those its client sends: it can
//! read, write and map them, start threads and end. It can open, create, remove or run nothing, make no socket, and
//! signal no one else.
//!
//! Two layers: Landlock takes all files, TCP ports, abstract sockets and signals away; the filters take away the system
//! calls. They answer a call in one of three ways:
//!
//! - what the card is measured to make, and what the libraries beneath it may, is allowed, with its arguments checked
//!   where they matter;
//! - what these libraries try and can do without, such as the files a panic's backtrace wants to read, fails with an
//!   error;
//! - anything else ends the process with SIGSYS. No code of the card makes such a call: whoever does has taken it over,
//!   and an error would let them try the next. The kernel's log has the number of the call, and what was rendered is a
//!   valid file.

use dmus_interface::pci::BAR_SIZE;
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};
use std::collections::BTreeMap;

/// Why there is no sandbox. Parts of it may be in force.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel knows Landlock and refuses this use of it.
    #[error("cannot enter the sandbox: Landlock fails: {0}")]
    Landlock(#[from] RulesetError),
    /// The filters cannot be made: a defect, or not this architecture.
    #[error("cannot enter the sandbox: its filters are wrong: {0}")]
    Filter(#[from] BackendError),
    /// The kernel, or a container around this process, refuses filters.
    #[error("cannot enter the sandbox: the system takes no seccomp filters: {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// Enters the sandbox: the calling thread, those it starts from now on, and, for the filters, all others too. There is
/// no way out.
///
/// Without Landlock (Linux before 5.13, or not enabled) a warning says so and the filters stand alone: they refuse the
/// same files and sockets.
///
/// # Errors
/// See [`SandboxError`].
pub fn enter() -> Result<(), SandboxError> {
    // First, since the filters allow none of its calls.
    if take_files_away()? == RulesetStatus::NotEnforced {
        tracing::warn!("this kernel has no Landlock: the sandbox is the system call filters alone");
    }
    for filter in filters()? {
        seccompiler::apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

/// Landlock, without a single exception, as far as the kernel has it. For the calling thread and those it starts.
fn take_files_away() -> Result<RulesetStatus, RulesetError> {
    let newest = ABI::V10;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// A system call, and what its arguments must be: one of these sets of conditions, or anything if there is none.
type Call = (i64, Vec<SeccompRule>);

/// The filters, in the order to apply them: the strictest answer of all filters counts, and the last one allows no more
/// filters.
fn filters() -> Result<[BpfProgram; 3], BackendError> {
    let refused = refused();
    let absent = vec![(libc::SYS_clone3, vec![])];
    let mut known = allowed()?;
    for (call, _) in refused.iter().chain(&absent) {
        // Whether it is refused is decided by the other filters.
        known.push((*call, vec![]));
    }
    Ok([
        filter(absent, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?,
        filter(refused, SeccompAction::Errno(libc::EACCES as u32), SeccompAction::Allow)?,
        filter(known, SeccompAction::Allow, SeccompAction::KillProcess)?,
    ])
}

fn filter(calls: Vec<Call>, listed: SeccompAction, others: SeccompAction) -> Result<BpfProgram, BackendError> {
    let calls: BTreeMap<_, _> = calls.into_iter().collect();
    SeccompFilter::new(calls, others, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Calls that fail with EACCES. libc and the standard library go on without what they look for: the number of
/// processors in `/sys` (older libcs, for a thread's first allocation), symbols for a panic's backtrace.
fn refused() -> Vec<Call> {
    plain(&[
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_readlink,
        libc::SYS_readlinkat,
        libc::SYS_getcwd,
        libc::SYS_access,
        libc::SYS_stat,
        libc::SYS_lstat,
        // Of a descriptor, too: no filter sees whether the path beside it is empty. fstat takes none.
        libc::SYS_statx,
        libc::SYS_newfstatat,
    ])
}

/// As in `linux/mman.h`; the libc crate lacks them.
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// What the card does. The descriptors themselves cannot be told apart: a client's come and go.
fn allowed() -> Result<Vec<Call>, BackendError> {
    use libc::*;
    let mut calls = vec![];

    // The client and the audio file, the log, interrupts (eventfds), and the signal handler's socket pair.
    calls.extend(plain(&[SYS_read, SYS_write, SYS_writev, SYS_lseek, SYS_close, SYS_fstat]));
    calls.extend(plain(&[SYS_accept4, SYS_recvfrom, SYS_recvmsg, SYS_sendto, SYS_sendmsg, SYS_shutdown]));
    calls.extend(plain(&[SYS_poll, SYS_ppoll]));
    calls.push((SYS_ioctl, one_of(1, &[FIONBIO as i64])?));
    let timeouts = |option: i32| rule(vec![equal(1, SOL_SOCKET as i64)?, equal(2, i64::from(option))?]);
    calls.push((SYS_setsockopt, vec![timeouts(SO_RCVTIMEO)?, timeouts(SO_SNDTIMEO)?]));
    // A doorbell page for each client, sealed, and duplicates of it; guest memory is sealed, too.
    calls.push((SYS_memfd_create, one_of(1, &[i64::from(MFD_CLOEXEC | MFD_ALLOW_SEALING)])?));
    let page = SeccompCondition::new(1, Qword, Eq, u64::from(BAR_SIZE))?;
    calls.push((SYS_ftruncate, vec![rule(vec![page])?]));
    let commands = [F_DUPFD_CLOEXEC, F_GETFD, F_ADD_SEALS, F_GET_SEALS].map(i64::from);
    calls.push((SYS_fcntl, one_of(1, &commands)?));
    // Whether a client's descriptors are what they should be: eventfds, and memory that stays.
    calls.extend(plain(&[SYS_ppoll, SYS_fstatfs]));

    // Guest memory and the heap. Nothing becomes executable.
    calls.extend(plain(&[SYS_brk, SYS_munmap, SYS_mremap]));
    let no_code = || Ok(vec![rule(vec![SeccompCondition::new(2, Dword, MaskedEq(PROT_EXEC as u64), 0)?])?]);
    calls.push((SYS_mmap, no_code()?));
    calls.push((SYS_mprotect, no_code()?));
    // Returning memory, and the guard pages of stacks (glibc 2.42).
    let advice = [MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE].map(i64::from);
    calls.push((SYS_madvise, one_of(2, &advice)?));

    // Threads and their locks. clone's flags are exactly a thread's; those of clone3 lie in memory, where no filter
    // sees them, so it is answered as if the kernel had none, and libc takes clone.
    calls.push((SYS_clone, vec![rule(vec![SeccompCondition::new(0, Qword, Eq, THREAD)?])?]));
    calls.extend(plain(&[SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_sched_getaffinity, SYS_sched_yield]));
    calls.extend(plain(&[SYS_gettid, SYS_getpid, SYS_exit, SYS_exit_group]));
    calls.push((SYS_prctl, one_of(0, &[PR_SET_NAME, PR_SET_TIMERSLACK].map(i64::from))?));

    // Signals: handlers, alternative stacks, waits that a stopped process goes on with, and its own end by abort.
    calls.extend(plain(&[
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sigaltstack,
        SYS_restart_syscall,
    ]));
    calls.push((SYS_tgkill, one_of(0, &[i64::from(std::process::id())])?));

    // Time, which needs calls where the clock is not readable from user space; sleeping; seeds of hash maps.
    calls.extend(plain(&[SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_getrandom]));
    Ok(calls)
}

/// What libc's `pthread_create` asks of clone.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// Calls whose arguments do not matter.
fn plain(calls: &[i64]) -> Vec<Call> {
    calls.iter().map(|&call| (call, vec![])).collect()
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

fn equal(argument: u8, value: i64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Dword, Eq, value as u64)
}

/// An argument of 32 bits that has one of these values.
fn one_of(argument: u8, values: &[i64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|&value| rule(vec![equal(argument, value)?])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::PermissionDenied;

    /// The filters hide what Landlock refuses: here it stands alone. It binds only the thread that asks for it.
    #[test]
    fn landlock_alone_takes_files_away() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("file");
        let refusals = || [std::fs::read(&file).err(), std::fs::remove_file(&file).err()];
        let inside = std::thread::scope(|scope| {
            scope.spawn(|| take_files_away().map(|status| (status, refusals()))).join().expect("the thread")
        });
        let (status, refusals) = inside.expect("Landlock");
        // A kernel without it has no more to show.
        let expected = if status == RulesetStatus::NotEnforced { None } else { Some(PermissionDenied) };
        for refusal in refusals {
            assert_eq!(refusal.map(|error| error.kind()), expected);
        }
    }
}
