/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalogue of the built-in events: one constant table, read by composition, by the command
 * line and by the NF API. The first entry has the empty name: it is the root, whose fields every
 * event has. An entry's other fields are its own; those of its parents are inherited.
 */
#include "nfm/nfm.h"

#define RECORD(member) NFM_FROM_RECORD, offsetof(nfm_record, member)
#define FLOW(member) NFM_FROM_FLOW, offsetof(nfm_flow_info, member)
#define FLOW_OF(who, member) NFM_FROM_FLOW_##who, offsetof(nfm_flow_info, member)
#define RECORD_OF(who, member) NFM_FROM_RECORD_##who, offsetof(nfm_record, member)
#define FLAG(bit) NFM_FROM_FLAG, NFM_F_##bit

/* clang-format off */
static const nfm_field_def root_fields[] = {
    {"ts", NFM_KIND_TIME, RECORD(ts_ns), "ns", "event time"},
    {"flow", NFM_KIND_U64, RECORD(flow), "", "flow id, 0 none; never reused within a run"},
    {"packet", NFM_KIND_U64, RECORD(packet), "", "ordinal of the frame on its worker, from 1"},
    {"events", NFM_KIND_U64, RECORD(events), "", "built-in events of this record, one bit each"},
    {"side", NFM_KIND_U8, RECORD(side), "", "sender's side of the flow, 0 or 1; see from_client"},
    {"from_client", NFM_KIND_BOOL, NFM_FROM_SENDER, 0, "", "the sender is the flow's client"},
    {"src_ip", NFM_KIND_ADDR, FLOW_OF(SRC, addr), "", "sender's address"},
    {"dst_ip", NFM_KIND_ADDR, FLOW_OF(DST, addr), "", "receiver's address"},
    {"src_port", NFM_KIND_U16, FLOW_OF(SRC, port), "", "sender's port"},
    {"dst_port", NFM_KIND_U16, FLOW_OF(DST, port), "", "receiver's port"},
    {"client_ip", NFM_KIND_ADDR, FLOW_OF(CLIENT, addr), "", "address of the flow's client"},
    {"client_port", NFM_KIND_U16, FLOW_OF(CLIENT, port), "", "port of the flow's client"},
    {"server_ip", NFM_KIND_ADDR, FLOW_OF(SERVER, addr), "", "address of the flow's server"},
    {"server_port", NFM_KIND_U16, FLOW_OF(SERVER, port), "", "port of the flow's server"},
    {"proto", NFM_KIND_U8, FLOW(proto), "", "IANA protocol number of the flow: 6 TCP, 17 UDP"},
    {"ip_version", NFM_KIND_U8, FLOW(ip_version), "", "4 or 6; 0 without a flow"},
    {"vlan", NFM_KIND_U16, FLOW(vlan), "", "outer VLAN id of the flow's first packet, 0 none"},
    {"vlan_inner", NFM_KIND_U16, NFM_FROM_FLOW, offsetof(nfm_flow_info, vlan) + 2, "",
     "inner VLAN id (802.1ad), 0 none"},
    {"tunnel", NFM_KIND_U8, FLOW(tunnel_kind), "tunnel", "innermost tunnel of the flow, 0 none"},
    {"tunnel_id", NFM_KIND_U32, FLOW(tunnel_id), "", "VNI, TEID, GRE key or MPLS label"},
    {"flow_start", NFM_KIND_TIME, FLOW(start_ns), "ns", "event time of the flow's first packet"},
    {"wire_len", NFM_KIND_U32, RECORD(wire_len), "bytes", "length of the frame on the wire"},
    {"frame_len", NFM_KIND_U32, RECORD(frame_len), "bytes", "captured length of the frame"},
    {"payload_len", NFM_KIND_U32, RECORD(payload_len), "bytes", "captured transport payload"},
    {"payload", NFM_KIND_BYTES, NFM_FROM_PAYLOAD, 0, "", "the transport payload of this packet"},
    {"tcp_flags", NFM_KIND_U8, RECORD(tcp_flags), "",
     "FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128"},
    {"in_port", NFM_KIND_U16, RECORD(port), "", "number of the port where the packet came"},
    {"conn_state", NFM_KIND_U8, RECORD(conn_state), "conn_state",
     "state of the connection in Zeek's words, such as SF or S0"},
    {"fragment", NFM_KIND_BOOL, FLAG(FRAGMENT), "", "a fragment, or put together from fragments"},
    {"tunnelled", NFM_KIND_BOOL, FLAG(TUNNEL), "", "the packet came inside a tunnel"},
    {"truncated", NFM_KIND_BOOL, FLAG(TRUNCATED), "", "captured shorter than on the wire"},
    {"again", NFM_KIND_BOOL, FLAG(AGAIN), "", "bytes judged before, seen again"},
    {"midstream", NFM_KIND_BOOL, FLAG(MIDSTREAM), "", "the begin of the flow was not seen"},
    {"client_by_syn", NFM_KIND_BOOL, FLAG(BASIS_SYN), "", "the client is known from its SYN"},
    {"client_by_synack", NFM_KIND_BOOL, FLAG(BASIS_SYNACK), "",
     "the client is known from the server's SYN-ACK"},
};

static const nfm_field_def malformed_fields[] = {
    {"bad_l3_checksum", NFM_KIND_BOOL, FLAG(BAD_L3_CSUM), "", "the IPv4 header checksum is wrong"},
    {"bad_l4_checksum", NFM_KIND_BOOL, FLAG(BAD_L4_CSUM), "", "the transport checksum is wrong"},
};

static const nfm_field_def totals_fields[] = {
    {"wire_len", NFM_KIND_U32, RECORD(frame_len), "bytes", "0: totals are of no frame"},
    {"payload_len", NFM_KIND_U32, RECORD(frame_len), "bytes", "0: totals are of no frame"},
    {"flow_last", NFM_KIND_TIME, RECORD(last_ns), "ns", "event time of the flow's last packet"},
    {"reason", NFM_KIND_U8, RECORD(reason), "end_reason", "why the flow ended, 0 while it is open"},
    {"c2s_packets", NFM_KIND_U32, RECORD_OF(CLIENT, totals.packets), "", "packets of the client"},
    {"s2c_packets", NFM_KIND_U32, RECORD_OF(SERVER, totals.packets), "", "packets of the server"},
    {"c2s_payload_bytes", NFM_KIND_U64, RECORD_OF(CLIENT, totals.payload_bytes), "bytes",
     "payload that the client sent, retransmissions included"},
    {"s2c_payload_bytes", NFM_KIND_U64, RECORD_OF(SERVER, totals.payload_bytes), "bytes",
     "payload that the server sent, retransmissions included"},
    {"c2s_stream_bytes", NFM_KIND_U64, RECORD_OF(CLIENT, totals.stream_bytes), "bytes",
     "bytes of the client delivered in order; 0 below level data"},
    {"s2c_stream_bytes", NFM_KIND_U64, RECORD_OF(SERVER, totals.stream_bytes), "bytes",
     "bytes of the server delivered in order; 0 below level data"},
    {"c2s_gap_bytes", NFM_KIND_U32, RECORD_OF(CLIENT, totals.gap_bytes), "bytes",
     "bytes of the client that were never seen"},
    {"s2c_gap_bytes", NFM_KIND_U32, RECORD_OF(SERVER, totals.gap_bytes), "bytes",
     "bytes of the server that were never seen"},
    {"c2s_retransmits", NFM_KIND_U32, RECORD_OF(CLIENT, totals.retransmits), "",
     "segments that the client sent again"},
    {"s2c_retransmits", NFM_KIND_U32, RECORD_OF(SERVER, totals.retransmits), "",
     "segments that the server sent again"},
    {"c2s_out_of_order", NFM_KIND_U32, RECORD_OF(CLIENT, totals.out_of_order), "",
     "segments of the client that arrived early or late"},
    {"s2c_out_of_order", NFM_KIND_U32, RECORD_OF(SERVER, totals.out_of_order), "",
     "segments of the server that arrived early or late"},
};

static const nfm_field_def tcp_fields[] = {
    {"seq", NFM_KIND_U32, RECORD(tcp.seq), "", "sequence number of this segment"},
    {"ack", NFM_KIND_U32, RECORD(tcp.ack), "", "acknowledgement number of this segment"},
    {"window", NFM_KIND_U32, RECORD(tcp.window), "bytes", "sender's receive window, scaled"},
    {"next", NFM_KIND_U32, RECORD(tcp.next), "", "sender: highest sequence number sent + 1"},
    {"una", NFM_KIND_U32, RECORD(tcp.una), "", "sender: lowest sequence number not acknowledged"},
    {"peer_next", NFM_KIND_U32, RECORD(tcp.peer_next), "",
     "receiver: highest sequence number sent + 1"},
    {"rtt", NFM_KIND_U32, RECORD(tcp.rtt_us), "us", "last round-trip sample, 0 none"},
    {"packets", NFM_KIND_U32, RECORD(tcp.packets), "", "packets of the sender, this one included"},
    {"retransmits", NFM_KIND_U32, RECORD(tcp.retransmits), "",
     "segments that the sender sent again"},
    {"payload_bytes", NFM_KIND_U64, RECORD(tcp.payload_bytes), "bytes",
     "payload of the sender, retransmissions included"},
    {"mss", NFM_KIND_U16, RECORD(tcp.mss), "bytes", "sender's announced segment size, 0 unknown"},
    {"client_state", NFM_KIND_U8, RECORD_OF(CLIENT, tcp.state), "tcp_state",
     "TCP state of the client"},
    {"server_state", NFM_KIND_U8, RECORD_OF(SERVER, tcp.state), "tcp_state",
     "TCP state of the server"},
};

static const nfm_field_def data_fields[] = {
    {"stream_off", NFM_KIND_U64, RECORD(tcp.stream_off), "bytes",
     "place of the new bytes in the sender's stream, from 0"},
    {"data_len", NFM_KIND_U32, RECORD(tcp.data_len), "bytes", "number of new bytes"},
    {"data", NFM_KIND_BYTES, NFM_FROM_DATA, 0, "", "the new bytes, in order"},
};

static const nfm_field_def gap_fields[] = {
    {"stream_off", NFM_KIND_U64, RECORD(tcp.stream_off), "bytes",
     "place of the hole in the sender's stream, from 0"},
    {"gap_len", NFM_KIND_U32, RECORD(tcp.data_len), "bytes", "size of the hole, saturated"},
    {"reason", NFM_KIND_U8, RECORD(reason), "gap_reason", "why the bytes are missing"},
};

static const nfm_field_def datagram_fields[] = {
    {"data", NFM_KIND_BYTES, NFM_FROM_DATA, 0, "", "the datagram's payload"},
};

#define NONE 0, NULL
#define OWN(table) sizeof(table) / sizeof((table)[0]), table

static const nfm_event_def events[] = {
    {"", -1, OWN(root_fields), "any event; its fields belong to every event"},
    {"packet", -1, NONE, "every frame that a port delivered"},
    {"packet.tcp", NFM_EV_PACKET_TCP, NONE, "a TCP segment"},
    {"packet.udp", NFM_EV_PACKET_UDP, NONE, "a UDP datagram as a packet"},
    {"packet.icmp", NFM_EV_PACKET_ICMP, NONE, "an ICMP or ICMPv6 message"},
    {"packet.other", NFM_EV_PACKET_OTHER, NONE, "another protocol, IP or not (ARP, SCTP, ...)"},
    {"packet.malformed", NFM_EV_PACKET_MALFORMED, OWN(malformed_fields),
     "a frame whose headers contradict themselves or end too early"},
    {"flow", -1, NONE, "the life of a flow, whatever its protocol"},
    {"flow.start", NFM_EV_FLOW_START, NONE, "the first packet of a new flow"},
    {"flow.end", NFM_EV_FLOW_END, OWN(totals_fields), "the flow is over; its totals"},
    {"flow.update", NFM_EV_FLOW_UPDATE, OWN(totals_fields), "the totals so far, at intervals"},
    {"tcp", -1, OWN(tcp_fields), "a tracked TCP connection; its state as of this packet"},
    {"tcp.handshake", -1, NONE, "a connection opens"},
    {"tcp.handshake.syn", NFM_EV_TCP_SYN, NONE, "the first SYN of a connection"},
    {"tcp.handshake.established", NFM_EV_TCP_ESTABLISHED, NONE, "the handshake is complete"},
    {"tcp.state", NFM_EV_TCP_STATE, NONE, "the TCP state of a side changed"},
    {"tcp.data", NFM_EV_TCP_DATA, OWN(data_fields), "new bytes of a stream, in order, each once"},
    {"tcp.end", -1, NONE, "a connection closes"},
    {"tcp.end.fin", NFM_EV_TCP_FIN, NONE, "both sides closed their streams"},
    {"tcp.end.reset", NFM_EV_TCP_RESET, NONE, "a valid RST ended the connection"},
    {"tcp.end.timeout", NFM_EV_TCP_TIMEOUT, NONE, "the connection fell silent for too long"},
    {"tcp.anomaly", -1, NONE, "something that a healthy connection does seldom or never"},
    {"tcp.anomaly.retransmit", NFM_EV_TCP_RETRANSMIT, NONE, "bytes were sent again"},
    {"tcp.anomaly.spurious", NFM_EV_TCP_SPURIOUS, NONE,
     "bytes were sent again although the receiver had acknowledged them"},
    {"tcp.anomaly.out_of_order", NFM_EV_TCP_OUT_OF_ORDER, NONE, "a segment came early or late"},
    {"tcp.anomaly.overlap", NFM_EV_TCP_OVERLAP, NONE, "a segment covers bytes of another in part"},
    {"tcp.anomaly.inconsistent_overlap", NFM_EV_TCP_INCONSISTENT_OVERLAP, NONE,
     "the same place of the stream was sent with different bytes"},
    {"tcp.anomaly.gap", NFM_EV_TCP_GAP, OWN(gap_fields), "bytes of the stream are given up as lost"},
    {"tcp.anomaly.zero_window", NFM_EV_TCP_ZERO_WINDOW, NONE, "the receiver has no room left"},
    {"tcp.anomaly.window_probe", NFM_EV_TCP_WINDOW_PROBE, NONE,
     "one byte sent into a closed window, to learn whether it opened"},
    {"tcp.anomaly.keep_alive", NFM_EV_TCP_KEEP_ALIVE, NONE, "a segment that only asks for an ACK"},
    {"tcp.anomaly.bad_checksum", NFM_EV_TCP_BAD_CHECKSUM, NONE, "the TCP checksum is wrong"},
    {"tcp.anomaly.midstream", NFM_EV_TCP_MIDSTREAM, NONE,
     "a connection whose handshake was not seen"},
    {"tcp.anomaly.unexpected", NFM_EV_TCP_UNEXPECTED, NONE,
     "a segment that its connection's state does not allow"},
    {"tcp.anomaly.duplicate_ack", NFM_EV_TCP_DUPLICATE_ACK, NONE,
     "the same acknowledgement again: the receiver misses a segment"},
    {"udp", -1, NONE, "UDP as a service sees it"},
    {"udp.datagram", NFM_EV_UDP_DATAGRAM, OWN(datagram_fields), "a whole datagram with its bytes"},
};
/* clang-format on */

/*
 * nfm_core_events returns the table of all built-in events, constant for the life of the process;
 * *n receives the number of entries. Parents stand before their children.
 */
const nfm_event_def *nfm_core_events(uint32_t *n) {
    *n = sizeof(events) / sizeof(events[0]);
    return events;
}
