//! What a card that root started gives up before it serves: its capabilities, and its user if it is told another.
//!
//! Fed by `serve`, once everything is open and before it starts any thread; feeds the kernel. Capabilities belong to a
//! thread, and those that it starts later have no more.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Why some of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// No such user.
    #[error("--user {0}: there is no such user: give a name of /etc/passwd, or a number")]
    Unknown(String),
    /// The system refused, as it does to everyone but root.
    #[error("cannot serve as user {user}: {errno}; only root can change its user")]
    User {
        /// As it was given.
        user: String,
        /// Why.
        errno: Errno,
    },
    /// The system refused.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(rustix::io::Errno),
}

/// Gives up all capabilities of the calling thread, those of its bounding set as far as the kernel lets it, and with
/// `user`, a name or a number, the user and groups of the process.
///
/// # Errors
/// See [`PrivilegesError`]. Some may be given up already.
pub fn drop_all(user: Option<&str>) -> Result<(), PrivilegesError> {
    let user = user.map(|user| find(user).map(|ids| (user, ids))).transpose()?;
    let held = capabilities(None).map_err(PrivilegesError::Capabilities)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        // It fails behind the last one that this kernel has.
        (0..u64::BITS)
            .find(|bit| remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err());
    }
    if let Some((user, (uid, gid))) = user {
        // The groups first: without its capabilities it could not any more.
        let changed = setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid));
        changed.map_err(|errno| PrivilegesError::User { user: user.to_owned(), errno })?;
    }
    let none = CapabilitySet::empty();
    // Linux before 4.3 has no ambient ones. With the others they are gone anyway.
    let _ = clear_ambient_capability_set();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(PrivilegesError::Capabilities)
}

/// A user's number and group. A number that nobody has is taken for both.
fn find(user: &str) -> Result<(Uid, Gid), PrivilegesError> {
    let failed = |errno| PrivilegesError::User { user: user.to_owned(), errno };
    // The kernel takes the highest number for "no change".
    let number = user.parse().ok().filter(|number| *number != u32::MAX);
    let entry = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(user),
    };
    match (entry.map_err(failed)?, number) {
        (Some(entry), _) => Ok((entry.uid, entry.gid)),
        (None, Some(number)) => Ok((Uid::from_raw(number), Gid::from_raw(number))),
        (None, None) => Err(PrivilegesError::Unknown(user.to_owned())),
    }
}
