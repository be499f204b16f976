//! What passes of the ssh agent protocol (draft-ietf-sshm-ssh-agent), out of an environment and back
//! from another place: keys are listed and used, and nothing else is asked of an agent.

use std::io::{self, Read, Write};

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// SSH_AGENT_FAILURE.
const FAILURE: u8 = 5;
/// As much as OpenSSH's agent takes, and gives.
pub const MESSAGE_MAX: usize = 256 * 1024;

/// Whether `request`, without its length, may reach an agent.
pub fn may_pass(request: &[u8]) -> bool {
    matches!(request.first(), Some(&REQUEST_IDENTITIES | &SIGN_REQUEST)) && request.len() <= MESSAGE_MAX
}

/// What a request gets that may not pass.
pub fn refusal() -> Vec<u8> {
    vec![FAILURE]
}

/// One message without its length; `None` at the end of the stream.
///
/// # Errors
/// Those of reading, and a message of no length or of more than [`MESSAGE_MAX`].
pub fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MESSAGE_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

/// Writes `message` behind its length.
///
/// # Errors
/// Those of writing.
pub fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_and_used_and_nothing_else() {
        assert!(may_pass(&[11]) && may_pass(&[13, 0]));
        // add, remove, remove all, lock, unlock, add smartcard, extension
        for kind in [17, 18, 19, 22, 23, 20, 27, 0, 255] {
            assert!(!may_pass(&[kind]), "{kind}");
        }
        assert!(!may_pass(&[]) && !may_pass(&vec![11; MESSAGE_MAX + 1]));
    }

    #[test]
    fn messages_come_as_they_went() {
        let mut stream = Vec::new();
        write_message(&mut stream, b"one").unwrap();
        write_message(&mut stream, b"2").unwrap();
        let read = &mut stream.as_slice();
        assert_eq!(read_message(read).unwrap().unwrap(), b"one");
        assert_eq!(read_message(read).unwrap().unwrap(), b"2");
        assert!(read_message(read).unwrap().is_none());
        for bad in [&[0, 0, 0, 0][..], &[0, 4, 0, 1, 11], &[0, 0, 0, 2, 11]] {
            assert!(read_message(&mut &*bad).is_err(), "{bad:?}");
        }
    }
}
