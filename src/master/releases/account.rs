//! Accounts as which configured processes run: `worker.user` with `worker.group`, and `hooks.user`.
//!
//! Law: may block (see `sys::accounts`), so this never runs on the loop.

use crate::config::{Config, Worker};
use crate::sys::accounts::{self, User};
use crate::sys::credentials::{own_gid, own_uid};
use crate::sys::spawn::Identity;

/// Variables that belong to an account, as systemd sets them for `User=`.
pub const VARIABLES: [&str; 4] = ["HOME", "LOGNAME", "SHELL", "USER"];

/// The user, the groups and the variables of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The user id; `None`: the master's, which then needs no look-up.
    uid: Option<u32>,
    /// The group id; `None`: the master's.
    gid: Option<u32>,
    groups: Vec<u32>,
    /// Whether a user was configured; then [`VARIABLES`] are not the master's.
    named: bool,
    user: Option<User>,
}

impl Account {
    /// The account of workers and of `reload.check`.
    ///
    /// # Errors
    /// There is no such account, or this master may not switch to it.
    pub fn of_workers(config: &Config) -> Result<Account, String> {
        let Worker { user, group, .. } = &config.worker;
        Account::resolve(("worker.user", user.as_deref()), ("worker.group", group.as_deref()))
    }

    /// The account of hooks.
    ///
    /// # Errors
    /// As [`Account::of_workers`].
    pub fn of_hooks(config: &Config) -> Result<Account, String> {
        Account::resolve(("hooks.user", config.hooks.user.as_deref()), ("", None))
    }

    fn resolve((key, user): (&str, Option<&str>), (group_key, group): (&str, Option<&str>)) -> Result<Account, String> {
        let account = Account::find((key, user), (group_key, group))?;
        if user.is_none() && group.is_none() {
            return Ok(account);
        }
        let own = own_uid();
        if own != 0 && (account.uid(), account.gid()) != (own, own_gid()) {
            let keys = if group_key.is_empty() { key.to_owned() } else { format!("{key}, {group_key}") };
            return Err(format!(
                "{keys}: only a master that runs as root can change them; this one has uid {own}: take them out, or set User= in a \
                 drop-in of the service instead"
            ));
        }
        Ok(account)
    }

    fn find((key, name): (&str, Option<&str>), (group_key, group): (&str, Option<&str>)) -> Result<Account, String> {
        let group = group
            .map(|name| accounts::group(name).ok_or_else(|| format!("{group_key}: there is no group {name:?}")))
            .transpose()?;
        let user = name.and_then(accounts::user);
        let uid = match (name, &user) {
            (None, _) => None,
            (Some(_), Some(user)) => Some(user.uid),
            (Some(name), None) => match (accounts::number(name), group) {
                (Some(uid), Some(_)) => Some(uid),
                (Some(_), None) if !group_key.is_empty() => {
                    return Err(format!(
                        "{key}: there is no user with the number {name}; name an account, or set {group_key} too"
                    ));
                }
                _ => return Err(format!("{key}: there is no user {name:?}")),
            },
        };
        let gid = group.or(user.as_ref().map(|user| user.gid));
        let groups = user.as_ref().map_or_else(Vec::new, |user| user.groups.clone());
        Ok(Account { uid, gid, groups, named: name.is_some(), user })
    }

    /// The user id.
    pub fn uid(&self) -> u32 {
        self.uid.unwrap_or_else(own_uid)
    }

    fn gid(&self) -> u32 {
        self.gid.unwrap_or_else(own_gid)
    }

    /// The user as shown in a sentence: `user 1000 (app)`.
    pub fn shown(&self) -> String {
        let uid = self.uid();
        let name = self.user.as_ref().map_or_else(|| accounts::name(uid), |user| Some(user.name.clone()));
        name.map_or_else(|| format!("user {uid}"), |name| format!("user {uid} ({name})"))
    }

    /// The ids that a process must change to run as this account; `None` when there are none, or when the master may not change them.
    pub fn identity(&self) -> Option<Identity> {
        let changes = self.uid.is_some() || self.gid.is_some();
        (changes && own_uid() == 0).then(|| Identity { uid: self.uid(), gid: self.gid(), groups: self.groups.clone() })
    }

    /// The variables of the account, if a user was configured.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let Some(user) = self.user.as_ref().filter(|_| self.named) else { return Vec::new() };
        let all = [("HOME", &user.home), ("LOGNAME", &user.name), ("SHELL", &user.shell), ("USER", &user.name)];
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.clone())).collect()
    }

    /// Whether a variable of the master is not passed to processes of this account.
    pub fn hides(&self, variable: &str) -> bool {
        self.named && VARIABLES.contains(&variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: Option<&str>, group: Option<&str>) -> Result<Account, String> {
        Account::find(("worker.user", user), ("worker.group", group))
    }

    #[test]
    fn account_by_number_is_the_account_by_name() {
        let root = find(Some("root"), None).unwrap();
        assert_eq!(find(Some("0"), None).unwrap(), root);
        assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
        assert!(root.groups.contains(&0));
        assert!(root.variables().contains(&("HOME", "/root".to_owned())), "{:?}", root.variables());
        assert!(root.hides("HOME") && root.hides("SHELL") && !root.hides("PATH"));
    }

    #[test]
    fn account_without_a_user_is_the_masters() {
        let own = find(None, None).unwrap();
        assert_eq!((own.uid, own.gid, own.variables()), (None, None, Vec::new()));
        assert_eq!(own.identity(), None);
        assert!(!own.hides("HOME"));
    }

    #[test]
    fn unknown_number_needs_a_group() {
        let why = find(Some("4000000001"), None).unwrap_err();
        assert_eq!(why, "worker.user: there is no user with the number 4000000001; name an account, or set worker.group too");
        let account = find(Some("4000000001"), Some("4000000002")).unwrap();
        assert_eq!((account.uid, account.gid, account.groups.as_slice()), (Some(4_000_000_001), Some(4_000_000_002), &[][..]));
        // The variables of root would be wrong for this account.
        assert!(account.hides("HOME") && account.variables().is_empty());
        assert_eq!(
            Account::find(("hooks.user", Some("4000000001")), ("", None)).unwrap_err(),
            "hooks.user: there is no user \"4000000001\""
        );
    }

    #[test]
    fn number_that_means_no_change_is_no_account() {
        for name in ["4294967295", "4294967296", "-1"] {
            assert_eq!(find(Some(name), Some("0")).unwrap_err(), format!("worker.user: there is no user {name:?}"));
            assert_eq!(find(None, Some(name)).unwrap_err(), format!("worker.group: there is no group {name:?}"));
        }
    }
}
