//! Which snapshots `--keep` leaves.

use lbx::snapshot::{Snapshot, Tag};

/// The tags of those of `snapshots`, which begin with the oldest, that go when `count` are kept, the one
/// just `saved` among them. Those that a restore made are not counted, and go with what was older.
pub(super) fn surplus(snapshots: &[Snapshot], saved: &Tag, count: usize) -> Vec<Tag> {
    // whatever the clock says: the one just saved is the newest
    let others: Vec<&Snapshot> = snapshots.iter().filter(|other| !other.safety && &other.tag != saved).collect();
    let (gone, kept) = others.split_at(others.len().saturating_sub(count.saturating_sub(1)));
    let own = snapshots.iter().find(|snapshot| &snapshot.tag == saved);
    let oldest = kept.first().copied().or(own);
    let is_older = |snapshot: &&Snapshot| oldest.is_none_or(|oldest| snapshot.made() < oldest.made());
    let safety = snapshots.iter().filter(|snapshot| snapshot.safety).filter(is_older);
    gone.iter().copied().chain(safety).map(|snapshot| snapshot.tag.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbx::Name;
    use lbx::layer::Stack;
    use lbx::record::Project;

    /// Snapshots of one after another second; those that begin with `before-` were made by a restore.
    fn taken(tags: &[&str]) -> Vec<Snapshot> {
        let snapshot = |(second, tag): (usize, &&str)| Snapshot {
            schema: 1,
            name: Name::parse("p-0123".as_ref()).unwrap(),
            tag: Tag::parse(tag).unwrap(),
            created: format!("2026-11-28T03:15:{second:02}Z"),
            layers: Stack::default(),
            project: Project::Rw,
            base: None,
            safety: tag.starts_with("before-"),
        };
        tags.iter().enumerate().map(snapshot).collect()
    }

    fn gone(tags: &[&str], saved: &str, count: usize) -> Vec<String> {
        surplus(&taken(tags), &Tag::parse(saved).unwrap(), count).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        assert_eq!(gone(&["a", "b", "c"], "c", 1), ["a", "b"]);
        assert_eq!(gone(&["a", "b", "c"], "c", 2), ["a"]);
        assert!(gone(&["a", "b", "c"], "c", 3).is_empty());
        assert!(gone(&["a", "b", "c"], "c", 9).is_empty());
    }

    #[test]
    fn the_one_just_saved_stays_whatever_its_time() {
        assert_eq!(gone(&["new", "b", "c"], "new", 1), ["b", "c"]);
        assert_eq!(gone(&["new", "b", "c"], "new", 2), ["b"]);
        // of a plan, there is none yet
        assert_eq!(gone(&["a", "b"], "new", 1), ["a", "b"]);
        assert_eq!(gone(&["a", "b"], "new", 2), ["a"]);
    }

    #[test]
    fn what_a_restore_replaced_is_not_counted_and_goes_with_its_time() {
        let tags = ["before-0", "a", "before-1", "b", "before-2", "c"];
        assert_eq!(gone(&tags, "c", 2), ["a", "before-0", "before-1"]);
        assert_eq!(gone(&tags, "c", 3), ["before-0"]);
        assert_eq!(gone(&tags, "c", 1), ["a", "b", "before-0", "before-1", "before-2"]);
        assert_eq!(gone(&["before-0"], "new", 1), ["before-0"]);
    }
}
