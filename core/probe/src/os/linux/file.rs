//! Small files of `/proc`, read without a heap. Off the handler.

use super::Identity;

/// Why a file was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is not there, or not for us.
    Refused,
    /// There is no room for one more open file, or no memory: at another time it may be read.
    NoRoom,
}

/// Reads the file of that path, which ends with a zero, as far as `into` has room.
pub(super) fn read_file<'b>(path: &[u8], into: &'b mut [u8]) -> Result<&'b [u8], Unread> {
    let path = core::ffi::CStr::from_bytes_with_nul(path).map_err(|_| Unread::Refused)?;
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        let no_room = [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&super::errno());
        return Err(if no_room { Unread::NoRoom } else { Unread::Refused });
    }
    let identity = Identity::of(file);
    // SAFETY: `into` is ours to write for its whole length.
    let len = unsafe { libc::read(file, into.as_mut_ptr().cast(), into.len()) };
    // The kernel takes its time to write what is read, in which a program may close all descriptors; and this is done
    // hundreds of times a second.
    if identity.is_none_or(|own| !own.is_of(file)) {
        return Err(Unread::NoRoom);
    }
    // SAFETY: the descriptor was opened above and is not used again.
    unsafe { libc::close(file) };
    usize::try_from(len).ok().and_then(|len| into.get(..len)).ok_or(Unread::Refused)
}

/// A short text that is put together in place; what does not fit is left out.
pub(super) struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub(super) fn text(&mut self, text: &[u8]) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + text.len()) {
            place.copy_from_slice(text);
            self.len += text.len();
        }
        self
    }

    pub(super) fn number(&mut self, number: u32) -> &mut Self {
        let mut digits = [0; 10];
        let mut first = digits.len();
        let mut rest = number;
        for (index, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            first = index;
            if rest == 0 {
                break;
            }
        }
        self.text(digits.get(first..).unwrap_or_default())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            assert_eq!(Text::<16>::new().number(number).bytes(), std::format!("{number}").as_bytes());
        }
        assert_eq!(Text::<4>::new().text(b"abc").number(12).bytes(), b"abc", "what does not fit is left out");
    }
}
