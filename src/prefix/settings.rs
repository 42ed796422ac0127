//! Where and how much may be stored.

use std::path::PathBuf;

use super::Element;
use crate::files::expand_home;

/// Where and how much may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// True if prefixes are stored.
    pub enabled: bool,
    /// The directory of the files.
    pub directory: PathBuf,
    /// The most bytes that one run holds in memory, or in the GPU's.
    pub memory: u64,
    /// The most bytes that one run has in files.
    pub disk: u64,
    /// The type in which values are stored.
    pub element: Element,
}

/// The directory that is used where none is named: `GENIR_CACHE`, else `genir` in `XDG_CACHE_HOME`, else in
/// `~/.cache`. Empty variables count as not set.
pub fn default_directory(lookup: impl Fn(&str) -> Option<String>) -> PathBuf {
    let lookup = |name: &str| {
        lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let user = lookup("HOME").map(PathBuf::from).or_else(std::env::home_dir);
    let path = |name: &str| lookup(name).map(|value| expand_home(&value, user.as_deref()));
    path("GENIR_CACHE").unwrap_or_else(|| {
        let caches = path("XDG_CACHE_HOME");
        caches.unwrap_or_else(|| expand_home("~/.cache", user.as_deref())).join("genir")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_directory_is_found_as_other_caches_are() {
        let directory = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> =
                set.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            default_directory(move |name| {
                set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            })
        };
        let home = ("HOME", "/home/me");
        assert_eq!(directory(&[home]), Path::new("/home/me/.cache/genir"));
        assert_eq!(directory(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/genir"));
        let both = [home, ("XDG_CACHE_HOME", "/x"), ("GENIR_CACHE", "~/g")];
        assert_eq!(directory(&both), Path::new("/home/me/g"));
        let empty = [home, ("GENIR_CACHE", " ")];
        assert_eq!(directory(&empty), Path::new("/home/me/.cache/genir"));
    }
}
