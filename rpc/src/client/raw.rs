//! [`Raw`]: a message that is encoded already.

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// Stands for an encoded message where one is to be encoded. Cannot be decoded to.
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Message for Raw<'_> {
    fn encode_raw(&self, out: &mut impl BufMut) {
        out.put_slice(self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        input: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, input, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0 = &[];
    }
}
