//! What one build of a module hands to the next in a swap.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// The state that one build of a module hands to the next.
///
/// An author gives it a number, raises the number when the format changes, and writes no byte of it: what
/// [serde](crate::serde) can write as JSON goes in by [`SavedState::of`] and comes out by [`SavedState::read`].
///
/// ```
/// use oxide_plugin_api::prelude::*;
///
/// # fn example() -> Result<()> {
/// // The first build:
/// let count = 7;
/// let saved = SavedState::of(1, &count)?; // in save_state
/// let count: i64 = saved.read(1)?; // in restore_state
/// assert_eq!(count, 7);
/// # Ok(()) }
/// # example().unwrap();
/// ```
///
/// A later build also takes what earlier ones saved, format by format, and gives along what they can read, so
/// that a rollback has its state as well:
///
/// ```
/// use oxide_plugin_api::{
///     prelude::*,
///     serde::{Deserialize, Serialize},
/// };
///
/// // Or depend on serde, and leave out the second line.
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(crate = "oxide_plugin_api::serde")]
/// struct State {
///     count: i64,
///     highest: i64,
/// }
///
/// fn restore(saved: SavedState) -> Result<State> {
///     // A third version adds a line, and changes none: `.upgrade_from(2, |state: StateV2| …)?`
///     saved.upgrade_from(1, |count: i64| Ok(State { count, highest: count }))?.read(2)
/// }
///
/// fn save(state: &State) -> Result<SavedState> {
///     SavedState::of(2, state)?.also(1, &state.count)
/// }
///
/// # fn example() -> Result<()> {
/// let state = restore(SavedState::of(1, &7)?)?;
/// assert_eq!(state, State { count: 7, highest: 7 });
///
/// let saved = save(&state)?;
/// assert_eq!(saved.read::<i64>(1)?, 7); // what the first build makes of it
/// assert_eq!(restore(saved)?, state);
///
/// let error = restore(SavedState::of(3, &"what nobody knows")?).unwrap_err();
/// assert!(error.to_string().starts_with("the state has version 3, this build reads version 2"));
/// # Ok(()) }
/// # example().unwrap();
/// ```
///
/// A field that an older build may ignore, and a newer one fill in by itself (`#[serde(default)]`), needs neither
/// a new number nor an upgrade.
///
/// JSON keeps whole numbers and finite floats exactly. It knows no NaN, its maps want keys that are text or
/// numbers, and it makes bytes three times as long. A state that does not suit it can be made by hand, as a number
/// and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// The author's own number for the format of `bytes`.
    pub version: u32,
    /// The state itself; the host caps its size.
    pub bytes: Vec<u8>,
}

/// Between the formats of one state, the newest first: JSON on one line holds none.
const SEPARATOR: u8 = b'\n';

impl SavedState {
    /// Writes `state` in the format that the author has numbered `version`.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn of(version: u32, state: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self { version, bytes: write(version, state)? })
    }

    /// Gives along the same state as an earlier build can read it, so that a swap back takes it too. The versions
    /// go down one by one: what [`SavedState::of`] wrote as 3 is also 2, and then perhaps also 1.
    ///
    /// # Errors
    /// When it cannot be written as JSON, or `version` is not the next one down.
    pub fn also(mut self, version: u32, older: &(impl Serialize + ?Sized)) -> Result<Self> {
        let expected = self.oldest().and_then(|oldest| oldest.checked_sub(1));
        if expected != Some(version) {
            return Err(Error::new(format_args!(
                "the state has {}, and cannot also have version {version}: give the versions along one by one, \
                 the next one down first",
                self.found()
            )));
        }
        let older = write(version, older)?;
        self.bytes.push(SEPARATOR);
        self.bytes.extend(older);
        Ok(self)
    }

    /// Where the state has version `from`, brings it to the next one; any other is left as it is. One line for
    /// each format there ever was leads from all of them to the present one.
    ///
    /// # Errors
    /// When the state has version `from` and is not an `Old`, or `step` fails; the message says between which
    /// versions.
    pub fn upgrade_from<Old: DeserializeOwned, New: Serialize>(
        self,
        from: u32,
        step: impl FnOnce(Old) -> Result<New>,
    ) -> Result<Self> {
        let (true, Some(to)) = (self.version == from, from.checked_add(1)) else { return Ok(self) };
        let upgraded = self.read(from).and_then(step).and_then(|new| Self::of(to, &new));
        upgraded.map_err(|error| {
            error.context(format_args!("the state cannot be brought from version {from} to {to}"))
        })
    }

    /// Reads the state in the format `version`: the one it was saved in, or one that was [given
    /// along](SavedState::also).
    ///
    /// # Errors
    /// When it has another version, which the message names and says what to do about, or is not a `T`.
    pub fn read<T: DeserializeOwned>(&self, version: u32) -> Result<T> {
        let nth = self.version.checked_sub(version).and_then(|nth| usize::try_from(nth).ok());
        let bytes = nth.and_then(|nth| self.bytes.split(|byte| *byte == SEPARATOR).nth(nth));
        let Some(bytes) = bytes else { return Err(self.unreadable(version)) };
        serde_json::from_slice(bytes).map_err(|error| {
            Error::from(error).context(format_args!(
                "the state says that it has version {version}, but is not what this build knows by that number"
            ))
        })
    }

    /// The lowest version that was given along.
    fn oldest(&self) -> Option<u32> {
        let more = self.bytes.iter().filter(|byte| **byte == SEPARATOR).count();
        self.version.checked_sub(u32::try_from(more).ok()?)
    }

    /// Its versions, in words.
    fn found(&self) -> String {
        match self.oldest() {
            Some(oldest) if oldest < self.version => {
                format!("the versions {} down to {oldest}", self.version)
            }
            _ => format!("version {}", self.version),
        }
    }

    fn unreadable(&self, expected: u32) -> Error {
        let found = self.found();
        let what_to_do = if self.version < expected {
            format!("add `upgrade_from({}, …)` before it is read", self.version)
        } else {
            format!("swap to a build that does, or have the newer one save `also({expected}, …)`")
        };
        Error::new(format_args!("the state has {found}, this build reads version {expected}: {what_to_do}"))
    }
}

fn write(version: u32, state: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    serde_json::to_vec(state).map_err(|error| {
        Error::from(error).context(format_args!("the state cannot be written as JSON, in version {version}"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct V2 {
        count: i64,
        label: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct V3 {
        counts: Vec<i64>,
        label: Option<String>,
    }

    /// Takes all versions there ever were to the third.
    fn restore(saved: SavedState) -> Result<V3> {
        saved
            .upgrade_from(1, |count: i64| Ok(V2 { count, label: "as\nbefore".to_owned() }))?
            .upgrade_from(2, |V2 { count, label }: V2| {
                if count < 0 {
                    return Err(Error::new("no count is negative any more"));
                }
                Ok(V3 { counts: vec![count], label: Some(label) })
            })?
            .read(3)
    }

    #[test]
    fn every_version_is_brought_to_the_present_one() {
        let label = || Some("as\nbefore".to_owned());
        assert_eq!(restore(SavedState::of(1, &7).unwrap()).unwrap(), V3 { counts: vec![7], label: label() });
        let second = V2 { count: 8, label: "two".to_owned() };
        let expected = V3 { counts: vec![8], label: Some("two".to_owned()) };
        assert_eq!(restore(SavedState::of(2, &second).unwrap()).unwrap(), expected);
        let third = V3 { counts: vec![1, 2], label: None };
        assert_eq!(restore(SavedState::of(3, &third).unwrap()).unwrap(), third);
    }

    #[test]
    fn other_versions_are_refused_with_found_expected_and_what_to_do() {
        let says = |saved: SavedState| restore(saved).unwrap_err().to_string();
        assert_eq!(
            says(SavedState::of(4, &()).unwrap()),
            "the state has version 4, this build reads version 3: swap to a build that does, or have the newer one \
             save `also(3, …)`"
        );
        assert_eq!(
            says(SavedState::of(0, &()).unwrap()),
            "the state has version 0, this build reads version 3: add `upgrade_from(0, …)` before it is read"
        );
        let many = SavedState::of(6, &()).unwrap().also(5, &()).unwrap().also(4, &()).unwrap();
        assert!(
            says(many).starts_with("the state has the versions 6 down to 4, this build reads version 3: ")
        );
        assert!(
            says(SavedState { version: u32::MAX, bytes: Vec::new() })
                .starts_with("the state has version 4294967295,")
        );
    }

    #[test]
    fn a_step_that_fails_says_between_which_versions() {
        let error = restore(SavedState::of(1, &-1).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the state cannot be brought from version 2 to 3");
        assert_eq!(error.chain(), ["no count is negative any more"]);
        let error = restore(SavedState::of(1, &"seven").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "the state cannot be brought from version 1 to 2");
        assert!(error.chain()[0].contains("is not what this build knows by that number"), "{error:?}");
        assert!(error.chain()[1].contains("invalid type: string"), "{error:?}");
    }

    #[test]
    fn an_older_build_reads_what_was_given_along() {
        let (first, second) = (9, V2 { count: 9, label: "two\nlines".to_owned() });
        let third = V3 { counts: vec![4, 5], label: None };
        let saved = SavedState::of(3, &third).unwrap().also(2, &second).unwrap().also(1, &first).unwrap();
        assert_eq!(saved.read::<i64>(1).unwrap(), first);
        assert_eq!(saved.read::<V2>(2).unwrap(), second);
        assert_eq!(saved.read::<V3>(3).unwrap(), third);
        assert!(saved.read::<i64>(0).is_err() && saved.read::<i64>(4).is_err());
        // Nothing that is there is made anew from an older one.
        let unused = |_: i64| -> Result<V2> { panic!("there is a second version") };
        assert_eq!(saved.clone().upgrade_from(1, unused).unwrap(), saved);
        assert_eq!(saved.upgrade_from(2, |_: V2| Ok(0)).unwrap().read::<V3>(3).unwrap(), third);
    }

    #[test]
    fn versions_are_given_along_one_by_one() {
        let saved = SavedState::of(3, &3).unwrap();
        for wrong in [0, 1, 3, 4] {
            let error = saved.clone().also(wrong, &0).unwrap_err().to_string();
            assert!(
                error
                    .starts_with(&format!("the state has version 3, and cannot also have version {wrong}: "))
            );
        }
        let saved = saved.also(2, &2).unwrap();
        assert!(
            saved
                .clone()
                .also(2, &2)
                .unwrap_err()
                .to_string()
                .starts_with("the state has the versions 3 down to 2,")
        );
        assert!(SavedState::of(0, &0).unwrap().also(u32::MAX, &0).is_err());
    }

    #[test]
    fn what_json_cannot_hold_is_refused_when_it_is_saved() {
        let error = SavedState::of(5, &HashMap::from([((1, 2), 3)])).unwrap_err();
        assert_eq!(error.to_string(), "the state cannot be written as JSON, in version 5");
        assert_eq!(error.chain(), ["key must be a string"]);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let mut bits = 0x3ff0_1234_5678_9abc_u64;
        for _ in 0..20_000 {
            // Knuth's: all patterns of bits come up.
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = f64::from_bits(bits);
            if number.is_finite() {
                assert_eq!(SavedState::of(1, &number).unwrap().read::<f64>(1).unwrap().to_bits(), bits);
            }
        }
        for number in [i128::MIN, i128::from(i64::MIN), i128::from(u64::MAX), i128::MAX] {
            assert_eq!(SavedState::of(1, &number).unwrap().read::<i128>(1).unwrap(), number);
        }
    }

    #[test]
    fn bytes_that_are_no_such_state_are_refused() {
        for bytes in [&b""[..], b"7 8", b"7x", b"\x07\0\0\0\0\0\0\0", b"{"] {
            let error = SavedState { version: 1, bytes: bytes.to_vec() }.read::<i64>(1).unwrap_err();
            assert!(error.to_string().starts_with("the state says that it has version 1, but"), "{error}");
        }
    }
}
