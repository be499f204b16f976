//! Terminals: how that of the caller passes on its keys, and how its habits reach the other end,
//! where numbers and flags may be another system's.

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios};

/// The special characters that go over, in this order.
const CHARACTERS: [SpecialCodeIndex; 11] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
];
/// The modes that go over, a byte each, in this order.
const INPUT: [InputModes; 6] =
    [InputModes::ICRNL, InputModes::INLCR, InputModes::IGNCR, InputModes::IXON, InputModes::IXANY, InputModes::IUTF8];
const LOCAL: [LocalModes; 8] = [
    LocalModes::ISIG,
    LocalModes::ICANON,
    LocalModes::ECHO,
    LocalModes::ECHOE,
    LocalModes::ECHOK,
    LocalModes::ECHOCTL,
    LocalModes::IEXTEN,
    LocalModes::TOSTOP,
];
const OUTPUT: [OutputModes; 2] = [OutputModes::OPOST, OutputModes::ONLCR];

/// The keys that make signals, as [`encode`] told them.
#[cfg(target_os = "linux")]
pub(crate) fn interrupts(bytes: &[u8]) -> Vec<(u8, nix::sys::signal::Signal)> {
    use nix::sys::signal::Signal;
    // 0 is no key
    let key = |at: usize| bytes.get(at).copied().filter(|key| *key != 0);
    let keys = [(0, Signal::SIGINT), (1, Signal::SIGQUIT), (7, Signal::SIGTSTP)];
    keys.into_iter().filter_map(|(at, signal)| Some((key(at)?, signal))).collect()
}

/// What the other end is to know of a terminal.
pub(crate) fn encode(modes: &Termios) -> Vec<u8> {
    let characters = CHARACTERS.iter().map(|index| modes.special_codes[*index]);
    let input = INPUT.iter().map(|mode| u8::from(modes.input_modes.contains(*mode)));
    let local = LOCAL.iter().map(|mode| u8::from(modes.local_modes.contains(*mode)));
    let output = OUTPUT.iter().map(|mode| u8::from(modes.output_modes.contains(*mode)));
    characters.chain(input).chain(local).chain(output).collect()
}

/// Gives `modes` what [`encode`] told; what it did not tell stays.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(crate) fn decode(bytes: &[u8], modes: &mut Termios) {
    let mut bytes = bytes.iter();
    for (index, byte) in CHARACTERS.iter().zip(&mut bytes) {
        modes.special_codes[*index] = *byte;
    }
    for (mode, byte) in INPUT.iter().zip(&mut bytes) {
        modes.input_modes.set(*mode, *byte != 0);
    }
    for (mode, byte) in LOCAL.iter().zip(&mut bytes) {
        modes.local_modes.set(*mode, *byte != 0);
    }
    for (mode, byte) in OUTPUT.iter().zip(&mut bytes) {
        modes.output_modes.set(*mode, *byte != 0);
    }
    modes.control_modes |= ControlModes::CREAD;
}
