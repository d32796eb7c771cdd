//! A membership as bytes, the same in the log, in snapshot files and between nodes: the protobuf
//! message `Membership` of `raft.proto`.

use prost::Message as _;
use proto::raft as wire;

use crate::core::{Membership, MembershipError, NodeId};

/// Bytes of a membership at most: what [`MAX_MEMBERS`](crate::core::MAX_MEMBERS) with the longest
/// addresses take, with room to spare.
pub(crate) const MAX_MEMBERSHIP_BYTES: usize = 64 << 10;

pub(crate) fn to_wire(membership: &Membership) -> wire::Membership {
    let members = membership
        .addresses()
        .iter()
        .map(|(node, address)| wire::Member {
            node: node.get(),
            address: address.clone(),
            voter: membership.voters().contains(node),
            outgoing: membership.outgoing().contains(node),
        });
    wire::Membership {
        members: members.collect(),
    }
}

pub(crate) fn from_wire(membership: wire::Membership) -> Result<Membership, MembershipError> {
    let with = |wanted: fn(&wire::Member) -> bool| {
        let members = membership.members.iter();
        let members = members.filter(|member| wanted(member));
        members
            .map(|member| NodeId::new(member.node))
            .collect::<Vec<_>>()
    };
    let voters = with(|member| member.voter);
    let outgoing = with(|member| member.outgoing);
    let learners = with(|member| !member.voter && !member.outgoing);
    let members = membership.members.into_iter();
    let addresses = members.map(|member| (NodeId::new(member.node), member.address));
    Membership::from_parts(voters, outgoing, learners, addresses)
}

pub(crate) fn encode(membership: &Membership) -> Vec<u8> {
    to_wire(membership).encode_to_vec()
}

/// # Errors
/// Bytes that are none, whatever they are.
pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, NoMembership> {
    if bytes.len() > MAX_MEMBERSHIP_BYTES {
        return Err(NoMembership::TooLong);
    }
    Ok(from_wire(wire::Membership::decode(bytes)?)?)
}

/// Why bytes are no membership.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoMembership {
    #[error("a membership of more than {MAX_MEMBERSHIP_BYTES} bytes")]
    TooLong,
    #[error("no membership: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("an impossible membership: {0}")]
    Impossible(#[from] MembershipError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_survives_its_bytes() {
        let node = NodeId::new;
        let address = |id: u64| (node(id), format!("10.0.0.{id}:29016"));
        let joint = Membership::from_parts(
            [node(0), node(1), node(3)],
            [node(0), node(1), node(2)],
            [node(7)],
            [0, 1, 2, 3, 7].map(address),
        )
        .unwrap();
        for membership in [Membership::default(), joint] {
            assert_eq!(decode(&encode(&membership)).unwrap(), membership);
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(matches!(
            decode(&[0xff; 9]),
            Err(NoMembership::Malformed(_))
        ));
        let long = vec![0; MAX_MEMBERSHIP_BYTES + 1];
        assert!(matches!(decode(&long), Err(NoMembership::TooLong)));
        let nobody_decides = wire::Membership {
            members: vec![wire::Member::default()],
        };
        let bytes = nobody_decides.encode_to_vec();
        assert!(matches!(decode(&bytes), Err(NoMembership::Impossible(_))));
    }
}
