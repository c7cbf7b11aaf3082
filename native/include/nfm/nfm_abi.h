/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ABI of nfmesh's data plane: declarations only, no preprocessor. C includes it through nfm.h,
 * cffi reads the very same file. Offsets, never pointers, are stored in memory that processes
 * share. Units are in the names; len is bytes; times are nanoseconds since the epoch (event time).
 */

/* Tables, laid out by hand: a value and its meaning share a line. */
/* clang-format off */

/* ---- status ------------------------------------------------------------------------------- */

enum nfm_status {
    NFM_OK = 0,
    NFM_E_NOMEM = -1,    /* out of memory */
    NFM_E_INVAL = -2,    /* argument out of range or inconsistent */
    NFM_E_IO = -3,       /* the operating system refused; detail in nfm_error */
    NFM_E_FORMAT = -4,   /* a file is not what it should be */
    NFM_E_EOF = -5,      /* a port has no more frames and never will */
    NFM_E_LIMIT = -6,    /* a configured limit was reached */
    NFM_E_STATE = -7,    /* called in the wrong order */
    NFM_E_ABI = -8,      /* ABI versions differ */
    NFM_E_TRUNCATED = -9, /* a file ends inside a packet; what came before is good */
    NFM_E_AGAIN = -10    /* not now: the other side must take something first */
};

typedef struct nfm_error {
    int32_t code;
    char text[508]; /* one line, names the file, field and remedy */
} nfm_error;

const char *nfm_strerror(int status);
uint32_t nfm_abi_version(void);

typedef struct nfm_view { /* borrowed bytes */
    const uint8_t *data;
    uint32_t len;
} nfm_view;

/* ---- events ------------------------------------------------------------------------------- */

/* Built-in stack events: one bit each in nfm_record.events. Names and fields: nfm_core_events(). */
enum nfm_event_bit {
    NFM_EV_PACKET_TCP = 0,
    NFM_EV_PACKET_UDP = 1,
    NFM_EV_PACKET_ICMP = 2,
    NFM_EV_PACKET_OTHER = 3,
    NFM_EV_PACKET_MALFORMED = 4,
    NFM_EV_FLOW_START = 5,
    NFM_EV_FLOW_END = 6,
    NFM_EV_FLOW_UPDATE = 7,
    NFM_EV_TCP_SYN = 8,
    NFM_EV_TCP_ESTABLISHED = 9,
    NFM_EV_TCP_STATE = 10,
    NFM_EV_TCP_DATA = 11,
    NFM_EV_TCP_FIN = 12,
    NFM_EV_TCP_RESET = 13,
    NFM_EV_TCP_TIMEOUT = 14,
    NFM_EV_TCP_RETRANSMIT = 15,
    NFM_EV_TCP_SPURIOUS = 16,
    NFM_EV_TCP_OUT_OF_ORDER = 17,
    NFM_EV_TCP_OVERLAP = 18,
    NFM_EV_TCP_INCONSISTENT_OVERLAP = 19,
    NFM_EV_TCP_GAP = 20,
    NFM_EV_TCP_ZERO_WINDOW = 21,
    NFM_EV_TCP_WINDOW_PROBE = 22,
    NFM_EV_TCP_KEEP_ALIVE = 23,
    NFM_EV_TCP_BAD_CHECKSUM = 24,
    NFM_EV_TCP_MIDSTREAM = 25,
    NFM_EV_TCP_UNEXPECTED = 26,
    NFM_EV_TCP_DUPLICATE_ACK = 27,
    NFM_EV_UDP_DATAGRAM = 28,
    NFM_EV_COUNT = 29,
    NFM_EV_MAX = 48 /* a descriptor has room for this many bits */
};

/* Kind of the 8-byte cell that a field occupies in an application record, or of a snapshot column. */
enum nfm_kind {
    NFM_KIND_U8 = 1,
    NFM_KIND_U16 = 2,
    NFM_KIND_U32 = 3,
    NFM_KIND_U64 = 4,
    NFM_KIND_I64 = 5,
    NFM_KIND_F64 = 6,
    NFM_KIND_BOOL = 7,
    NFM_KIND_BYTES = 8, /* cell = u32 offset from the start of the field record, u32 len */
    NFM_KIND_STR = 9,   /* same, UTF-8 or latin-1 text as seen on the wire */
    NFM_KIND_ADDR = 10, /* 16 bytes; IPv4 in the first four, ip_version tells */
    NFM_KIND_TIME = 11  /* i64 ns since the epoch */
};

/* Where the value of a field is found. */
enum nfm_source {
    NFM_FROM_RECORD = 1, /* at |offset| in nfm_record */
    NFM_FROM_FLOW = 2,   /* at |offset| in nfm_flow_info, by flow index */
    NFM_FROM_FIELDS = 3, /* cell number |offset| / 8 of the application record's field record */
    NFM_FROM_FLOW_SRC = 4, /* like FLOW, but an array of two: element = side of the sender */
    NFM_FROM_FLOW_DST = 5, /* element = the other side */
    NFM_FROM_FLOW_CLIENT = 6, /* element = the client's side */
    NFM_FROM_FLOW_SERVER = 7,
    NFM_FROM_RECORD_CLIENT = 8, /* like RECORD, but an array of two: element = the client's side */
    NFM_FROM_RECORD_SERVER = 9,
    NFM_FROM_FLAG = 10,    /* BOOL: a bit of nfm_record.flags; |offset| is the mask */
    NFM_FROM_SENDER = 11,  /* BOOL: the sender of the packet is the flow's client */
    NFM_FROM_PAYLOAD = 12, /* BYTES: the L4 payload in the slot */
    NFM_FROM_DATA = 13     /* BYTES: what nfm_record_data returns */
};

typedef struct nfm_field_def {
    const char *name;
    uint8_t kind;   /* enum nfm_kind */
    uint8_t source; /* enum nfm_source */
    uint16_t offset;
    const char *unit; /* "ns", "bytes", "" */
    const char *doc;
} nfm_field_def;

typedef struct nfm_event_def {
    const char *name; /* dotted; the parent is everything before the last dot */
    int32_t bit;      /* enum nfm_event_bit, or -1: application event or inner node */
    uint32_t n_fields;
    const nfm_field_def *fields; /* own fields; the parents' are inherited */
    const char *doc;
} nfm_event_def;

/* The core's part of the catalogue: packet.*, flow.* and the inner nodes. *n receives the count. */
const nfm_event_def *nfm_core_events(uint32_t *n);

/* ---- shared layouts ----------------------------------------------------------------------- */

enum nfm_layout {
    NFM_RECORD_SIZE = 128,
    NFM_FLOW_INFO_SIZE = 64,
    NFM_DESC_SIZE = 16,
    /* Bytes of a slot, headroom included: 2 KiB and 68 KiB and a cache line more, so that the heads of
     * many slots do not share a few sets of the caches. */
    NFM_SLOT_SMALL = 2112,
    NFM_SLOT_LARGE = 69696, /* GSO frames, jumbo, reassembled datagrams */
    NFM_HEADROOM = 128,      /* the frame starts here in its slot */
    NFM_MAX_FRAME = 69568,   /* NFM_SLOT_LARGE - NFM_HEADROOM */
    NFM_BURST = 32
};

enum nfm_flag { /* nfm_record.flags */
    NFM_F_IPV6 = 1,
    NFM_F_FRAGMENT = 2,     /* reassembled from fragments, or an unreassembled fragment */
    NFM_F_TUNNEL = 4,       /* innermost headers lie inside a tunnel */
    NFM_F_TRUNCATED = 8,    /* captured shorter than on the wire */
    NFM_F_BAD_L3_CSUM = 16,
    NFM_F_BAD_L4_CSUM = 32,
    NFM_F_CLIENT_IS_1 = 64, /* side 1 of the flow turned out to be the client (late SYN) */
    NFM_F_AGAIN = 128,      /* bytes judged before, seen again */
    NFM_F_BASIS_SYN = 256,  /* client known from a SYN */
    NFM_F_BASIS_SYNACK = 512,
    NFM_F_MIDSTREAM = 1024, /* the flow's begin was not seen */
    NFM_F_NOT_ETHERNET = 2048, /* the frame begins with another link layer's header, or none */
    NFM_F_PART = 4096 /* in the inbox of a domain: the slot holds the record's data, not its frame */
};

enum nfm_record_kind {
    NFM_REC_PACKET = 1, /* line 2: tcp, valid from level track up */
    NFM_REC_FLOW = 2,   /* flow.end and flow.update; line 2: flow; no slot when a timer caused it */
    NFM_REC_APP = 3,    /* application event; line 2: app */
    NFM_REC_GAP = 4     /* line 2: tcp; data_len = missing bytes, saturated; no slot */
};

enum nfm_gap_reason {
    NFM_GAP_NONE = 0,
    NFM_GAP_ACKED = 1,    /* the receiver acknowledged bytes that were never seen */
    NFM_GAP_FLOW_CAP = 2, /* out-of-order cap of the flow */
    NFM_GAP_WORKER_CAP = 3,
    NFM_GAP_END = 4,      /* the flow ended with a hole */
    NFM_GAP_TRUNCATED = 5 /* captured shorter than on the wire */
};

enum nfm_end_reason {
    NFM_END_NONE = 0,
    NFM_END_FIN = 1,
    NFM_END_RESET = 2,
    NFM_END_TIMEOUT = 3,
    NFM_END_EVICTED = 4, /* flow table full */
    NFM_END_REUSED = 5,  /* the 5-tuple was taken by a new connection */
    NFM_END_EOF = 6
};

/* Zeek's conn_state words, in nfm_record.conn_state; text by nfm_conn_state_name(). */
enum nfm_conn_state {
    NFM_CS_NONE = 0, /* not TCP */
    NFM_CS_S0, NFM_CS_S1, NFM_CS_SF, NFM_CS_REJ, NFM_CS_S2, NFM_CS_S3, NFM_CS_RSTO, NFM_CS_RSTR,
    NFM_CS_RSTOS0, NFM_CS_RSTRH, NFM_CS_SH, NFM_CS_SHR, NFM_CS_OTH
};
const char *nfm_conn_state_name(int state);

/* TCP state of one side as watched from the middle (RFC 9293 section 3.3.2), in tcp.state[side]. */
enum nfm_tcp_state {
    NFM_TCP_NONE = 0, NFM_TCP_SYN_SENT, NFM_TCP_SYN_RECEIVED, NFM_TCP_ESTABLISHED,
    NFM_TCP_FIN_WAIT_1, NFM_TCP_FIN_WAIT_2, NFM_TCP_CLOSE_WAIT, NFM_TCP_CLOSING, NFM_TCP_LAST_ACK,
    NFM_TCP_TIME_WAIT, NFM_TCP_CLOSED
};
const char *nfm_tcp_state_name(int state);

typedef struct nfm_tcp_view { /* state as of this packet; "own" is the sender of this packet */
    uint64_t stream_off;  /* of data_off in the own side's byte stream, from 0 */
    uint32_t data_off;    /* new in-order bytes: from the slot's start */
    uint32_t data_len;    /* 0 without tcp.data */
    uint32_t seq;         /* of this segment */
    uint32_t ack;
    uint32_t window;      /* own receive window, bytes, scaled */
    uint32_t next;        /* own: highest sequence number sent + 1 */
    uint32_t una;         /* own: lowest not acknowledged by the peer */
    uint32_t peer_next;
    uint32_t rtt_us;      /* last sample, 0 none */
    uint32_t packets;     /* own, this one included */
    uint32_t retransmits; /* own, segments */
    uint8_t state[2];     /* enum nfm_tcp_state by side */
    uint16_t mss;         /* own announced, 0 unknown */
    uint64_t payload_bytes; /* own, retransmissions included */
} nfm_tcp_view;

typedef struct nfm_flow_view { /* totals, by side */
    uint64_t payload_bytes[2];
    uint64_t stream_bytes[2]; /* delivered in order; 0 below level data */
    uint32_t gap_bytes[2];    /* saturates */
    uint32_t packets[2];
    uint32_t retransmits[2];
    uint32_t out_of_order[2];
} nfm_flow_view;

typedef struct nfm_app_view {
    uint64_t stream_off;
    uint32_t data_off; /* bytes of the slot that the event is about (http.body), or 0 */
    uint32_t data_len;
    uint32_t type;       /* application event type id */
    uint32_t fields_len; /* bytes of the field record */
    uint64_t fields;     /* its byte offset in the fields region */
    uint32_t ordinal;    /* of this event among those its packet raised */
    uint32_t reserved[7];
} nfm_app_view;

/* What descriptors name: an immutable snapshot of the stack as of one packet, or an event record. */
typedef struct nfm_record {
    int64_t ts_ns;    /* event time */
    uint64_t flow;    /* flow id, 0 none; low 32 bits are the index into flows */
    uint64_t events;  /* 1 << enum nfm_event_bit; 0 for NFM_REC_APP */
    uint64_t packet;  /* ordinal of the frame on its worker, from 1 */
    uint32_t slot;    /* NFM_NO_SLOT (0xffffffff): none */
    uint32_t frame_len;   /* bytes in the slot from NFM_HEADROOM */
    union {
        struct {
            uint32_t wire_len;    /* original length */
            uint32_t payload_len; /* L4 payload in the slot from payload_off */
        };
        int64_t last_ns; /* NFM_REC_FLOW: event time of the flow's last packet */
    };
    uint16_t l3_off;      /* innermost L3 header, from the slot's start; 0 none */
    uint16_t l4_off;
    uint16_t payload_off;
    uint8_t side; /* of the sender: index into nfm_flow_info's arrays */
    uint8_t proto; /* IANA, innermost */
    uint8_t tcp_flags; /* RFC 9293: FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32 ECE 64 CWR 128 */
    uint8_t kind;  /* enum nfm_record_kind */
    uint16_t flags; /* enum nfm_flag */
    uint16_t port; /* number of the worker's port where the frame came */
    uint8_t conn_state; /* enum nfm_conn_state, from level track up */
    uint8_t reason;     /* enum nfm_gap_reason or nfm_end_reason */
    union {
        nfm_tcp_view tcp;
        nfm_flow_view totals;
        nfm_app_view app;
    };
} nfm_record;

/* Immutable facts of a flow, by flow index. Side 0 is who seemed the client at the first packet. */
typedef struct nfm_flow_info {
    uint8_t addr[2][16];
    uint16_t port[2]; /* host order; ICMP echo: identifier on both sides, else type << 8 | code */
    uint8_t proto;
    uint8_t ip_version; /* 4 or 6 */
    uint16_t vlan[2];   /* outer, inner; 0 none */
    uint8_t tunnel_kind; /* enum nfm_tunnel */
    uint8_t flags;       /* reserved */
    uint32_t tunnel_id;  /* VNI, TEID, GRE key, MPLS label of the first packet */
    int64_t start_ns;
    uint64_t id;
} nfm_flow_info;

enum nfm_tunnel {
    NFM_TUNNEL_NONE = 0, NFM_TUNNEL_IPIP, NFM_TUNNEL_GRE, NFM_TUNNEL_VXLAN, NFM_TUNNEL_GENEVE,
    NFM_TUNNEL_GTPU, NFM_TUNNEL_TEREDO, NFM_TUNNEL_MPLS, NFM_TUNNEL_PPPOE
};

/* What the kernel or the NIC left undone in a frame, as in virtio_net_hdr. It lies at the very
 * start of the frame's slot, in the headroom, written by the port that received the frame (zeroes:
 * the frame is whole) and read by the one that sends it. */
typedef struct nfm_slot_meta {
    uint8_t needs_csum;   /* 1: the L4 checksum is to be completed from csum_start on */
    uint8_t gso_type;     /* VIRTIO_NET_HDR_GSO_*; 0 none */
    uint16_t gso_size;    /* payload bytes of each segment */
    uint16_t hdr_len;     /* bytes of the headers that each segment repeats */
    uint16_t csum_start;  /* from the frame's start */
    uint16_t csum_offset; /* of the checksum field, from csum_start */
    uint16_t reserved[3];
} nfm_slot_meta;

/* One ring entry. what: bits 0..47 event bits, or with bit 63 the type id in the low 32 bits;
 * bits 48..55 handler (which subscription of this receiver). With bit 62 it is a gap of a lossy
 * ring: no record, and bits 0..47 say how many entries are missing here. With bit 61 the entry's
 * nfm_edit says, when it comes, how stages before changed the packet. */
typedef struct nfm_desc {
    uint32_t record;
    uint32_t flow; /* flow index, 0xffffffff none */
    uint64_t what;
} nfm_desc;

/* Base addresses of the shared objects as mapped in this process. */
typedef struct nfm_mem {
    const uint8_t *packets;
    const nfm_record *records;
    const uint8_t *fields;
    const nfm_flow_info *flows;
    uint32_t n_small; /* slots below are small, the others large */
    uint32_t n_slots;
    uint32_t n_records;
    uint32_t n_flows;
    uint64_t fields_size;
} nfm_mem;

/* What an inline NF says of an entry's packet: an action in the low byte, its argument in the 23
 * bits above, and NFM_REST in the highest bit. Of several NFs' the greatest action holds; what is
 * done beside it (mirror, rewrite, redirect) adds up. */
enum nfm_action {
    NFM_PASS = 0,
    NFM_MIRROR = 1,   /* passes, and a copy goes to port |argument| */
    NFM_REWRITE = 2,  /* passes with what the entry's nfm_edit says */
    NFM_REDIRECT = 3, /* passes to port |argument| instead of its own */
    NFM_KEEP = 4,     /* waits: argument is a hold (nfm_ring_hold), nfm_ring_judge says the rest */
    NFM_DROP = 5,
    NFM_REJECT = 6    /* dropped, and its sender is told: RST or ICMP administratively prohibited */
};
enum nfm_verdict_bits {
    NFM_ARG_SHIFT = 8,
    NFM_ARG_MASK = 0x7fffff,
    NFM_REST_SHIFT = 31 /* also for all further packets of the flow, which are not asked for again;
                           for NFM_PASS, _REWRITE, _REDIRECT and _DROP. A rewrite is undone the other way. */
};

enum nfm_edit_field { /* what of nfm_edit holds */
    NFM_EDIT_SRC = 1, NFM_EDIT_DST = 2, NFM_EDIT_SRC_PORT = 4, NFM_EDIT_DST_PORT = 8,
    NFM_EDIT_SRC_MAC = 16, NFM_EDIT_DST_MAC = 32, NFM_EDIT_TTL = 64, NFM_EDIT_TTL_DOWN = 128,
    NFM_EDIT_VLAN_PUSH = 256, NFM_EDIT_VLAN_POP = 512, NFM_EDIT_SEQ = 1024, NFM_EDIT_ACK = 2048,
    NFM_EDIT_BACK = 4096, /* leaves by the port where it came from */
    NFM_EDIT_OUT = 8192,  /* leaves by port |out| */
    NFM_EDIT_HOP = 16384, /* a router's: the outermost header's TTL or hop limit, less 1 */
    NFM_EDIT_PAYLOAD = 32768 /* other bytes instead of the entry's own: tcp.data, udp.datagram. Not
                                with NFM_REST, and alone */
};
typedef struct nfm_edit { /* of the innermost headers; checksums are adapted */
    uint32_t fields; /* enum nfm_edit_field */
    union {
        struct {
            uint32_t seq_add, ack_add; /* modulo 2^32 */
        };
        struct {
            uint32_t bytes_off, bytes_len; /* NFM_EDIT_PAYLOAD: as nfm_ring_payload gave it */
        };
    };
    uint16_t src_port, dst_port; /* ICMP echo: both are the identifier */
    uint8_t src[16], dst[16];
    uint8_t src_mac[6], dst_mac[6];
    uint16_t vlan; /* tag control information to push, ethertype 0x8100 */
    uint8_t ttl;   /* to set; with TTL_DOWN what is taken away */
    uint8_t out;   /* number of a port */
} nfm_edit;

/* A run of ring entries handed to an NF. Valid until the handler returns. */
typedef struct nfm_ring nfm_ring;
typedef struct nfm_batch {
    const nfm_mem *mem;
    const nfm_desc *desc;
    uint32_t n;
    uint32_t handler; /* 0xffffffff: descriptors carry it */
    nfm_ring *ring;   /* that they came from, for nfm_ring_hold and the like; NULL: a log */
    uint32_t *verdict; /* by entry, PASS at first; NULL: nobody asks. Ignored where an entry is not
                          inline */
    nfm_edit *edit;    /* by entry, for NFM_REWRITE; see nfm_desc for what it says before */
} nfm_batch;

/* A native NF: state is what its init returned. Returns NFM_OK or a negative status. */
typedef int (*nfm_process_fn)(void *state, const nfm_batch *batch);

/* Copies column |field| of |n| descriptors to |out| (kind's size each; ADDR 16; BYTES/STR are
 * refused). Values of descriptors without a flow are 0. Returns NFM_OK or NFM_E_INVAL. */
int nfm_gather(const nfm_mem *mem, const nfm_desc *desc, uint32_t n, const nfm_field_def *field,
               void *out);
/* Address and length of BYTES/STR column values: data[i], len[i]. */
int nfm_gather_bytes(const nfm_mem *mem, const nfm_desc *desc, uint32_t n,
                     const nfm_field_def *field, const uint8_t **data, uint32_t *len);
/* The bytes that a record is about: tcp.data's new bytes, a datagram's payload, an event's data. */
nfm_view nfm_record_data(const nfm_mem *mem, const nfm_record *record);
/* The whole frame of a record, link layer included; empty without a slot. */
nfm_view nfm_record_frame(const nfm_mem *mem, const nfm_record *record);

/* ---- ports -------------------------------------------------------------------------------- */

typedef struct nfm_port nfm_port;

typedef struct nfm_port_stats {
    uint64_t rx_packets;
    uint64_t rx_bytes;
    uint64_t rx_truncated;  /* captured shorter than on the wire */
    uint64_t rx_oversize;   /* larger than the largest slot: dropped */
    uint64_t rx_bad_record; /* unreadable capture block skipped */
    uint64_t rx_unsupported_link; /* packets of a link type that is not parsed: delivered as other */
    uint64_t file_size;     /* bytes, 0 not a file */
    uint64_t file_offset;   /* bytes consumed (compressed bytes for gzip) */
    uint64_t rx_missed;     /* live: the kernel's or the NIC's queue was full: never seen */
    uint64_t rx_errors;     /* live: frames or polls that failed */
    uint64_t tx_packets;
    uint64_t tx_bytes;
    uint64_t tx_full;       /* frames not accepted because the queue was full */
    uint64_t tx_oversize;   /* longer than the link's MTU allows: dropped */
    uint64_t tx_errors;     /* refused by the kernel or the NIC: dropped */
    uint64_t link_changes;
    uint32_t link_up;       /* live: 1 up, 0 down or gone; captures: 1 */
    uint32_t mtu;           /* bytes of an L3 packet, 0 unknown */
} nfm_port_stats;

/* Opens a capture (pcap, pcapng, either gzipped). err names the file and what is wrong.
 * Returns NULL on failure. */
nfm_port *nfm_port_pcap_open(const char *path, nfm_error *err);
/* The same capture again and again, each pass later than the one before and with other IPv4
 * addresses, as in nfm_port_mem_loop; it ends when a pass has no frame. */
nfm_port *nfm_port_pcap_loop_open(const char *path, nfm_error *err);
/* A port over frames in memory. Frames are copied in; link_type is a LINKTYPE_ number. */
nfm_port *nfm_port_mem_new(uint32_t link_type, nfm_error *err);
int nfm_port_mem_push(nfm_port *port, const uint8_t *frame, uint32_t len, uint32_t wire_len,
                      int64_t ts_ns);
/* Serves the pushed frames |passes| times; each pass adds |span_ns| to time and shifts IPv4
 * addresses (both, checksum-neutral), so that a loop is new traffic. */
int nfm_port_mem_loop(nfm_port *port, uint64_t passes, int64_t span_ns);
/* What is sent through a mem port is counted; kept as well up to |bytes|, and read back in order. */
int nfm_port_mem_keep(nfm_port *port, uint64_t bytes);
nfm_view nfm_port_mem_sent(const nfm_port *port, uint64_t *at);

/* A queue of a DPDK ethdev: a NIC's virtual function, or a virtual device. The library that does it
 * is loaded then. DPDK's environment (EAL) begins once per process, with the first port's words;
 * the queues of one device belong to worker threads of one process. */
typedef struct nfm_dpdk_config {
    const char *eal;    /* EAL arguments, blanks between; NULL: "--in-memory --no-telemetry" */
    const char *device; /* "0000:3b:02.1", "net_null0,size=60"; NULL: the first there is */
    uint16_t queue, n_queues; /* this port's, and how many there are (0: 1): RSS over all */
    uint16_t rx_desc, tx_desc; /* 0: 1024; as many slots the NIC may hold */
    uint32_t mtu;        /* 0: as it is */
    uint8_t promiscuous; /* 1: all frames */
    uint8_t copy;        /* enum nfm_copy */
} nfm_dpdk_config;

enum nfm_copy {
    NFM_COPY_AUTO = 0,   /* copies only where the device cannot work on slots */
    NFM_COPY_ALWAYS = 1, /* frames are copied out of and into the device's own memory */
    NFM_COPY_NEVER = 2   /* the device reads and writes slots; afxdp: the driver's zero-copy */
};

nfm_port *nfm_port_dpdk_open(const nfm_dpdk_config *config, nfm_error *err);

/* A queue of an interface through AF_XDP: the kernel reads and writes the slots themselves. */
typedef struct nfm_afxdp_config {
    const char *interface;
    uint32_t queue;
    uint32_t rx_size, tx_size; /* entries of the rings, powers of two; 0: 2048 */
    uint8_t generic;     /* 1: the kernel's generic XDP; 0: the driver's, generic where it has none */
    uint8_t copy;        /* enum nfm_copy: between the driver and the slots */
    uint8_t promiscuous;
} nfm_afxdp_config;

nfm_port *nfm_port_afxdp_open(const nfm_afxdp_config *config, nfm_error *err);

/* A sink: what is sent is written to a capture of the given format (see the writer), with its event
 * time. Once a write fails the link is down and stays it; nfm_port_warning says why. */
nfm_port *nfm_port_record_open(const char *path, int format, uint32_t link_type, nfm_error *err);
/* Writes what is buffered; most ports buffer nothing. NFM_E_IO: a frame that was sent may not be in
 * the file. */
int nfm_port_flush(nfm_port *port);

/* Ports around a port. Each owns |inner| from the moment that it was made (not when NULL comes
 * back), frees it with itself, and has its link and counters; what it does itself is counted apart. */

/* Frames come at the pace at which they were recorded. */
typedef struct nfm_replay_config {
    double speed;     /* 1: as recorded; 10: ten times faster; 0: as fast as it goes */
    uint32_t wait_us; /* how long rx may sleep until the next frame is due; 0: it returns at once */
    uint8_t live;     /* 1: frames get the time at which they come, as from an interface; 0: event
                         time is that of the recording */
} nfm_replay_config;

nfm_port *nfm_port_replay_new(nfm_port *inner, const nfm_replay_config *config, nfm_error *err);

enum nfm_direction { NFM_DIR_RX = 1, NFM_DIR_TX = 2, NFM_DIR_BOTH = 3 };

/* A link that is not what it should be. Shares are 0..1 of the frames, drawn by |seed|: the same
 * frames in the same order meet the same fate. */
typedef struct nfm_impair_config {
    uint64_t seed;
    double drop, duplicate, corrupt; /* corrupt: one bit is turned */
    double reorder;         /* the frame lets |reorder_gap| others pass, or |reorder_ns| */
    double delay;           /* the frame waits |delay_ns| and up to |jitter_ns| more */
    uint64_t delay_ns, jitter_ns, reorder_ns; /* reorder_ns 0: 10 ms */
    uint64_t rate_bps;      /* of the link, bits per second; 0: no limit */
    uint32_t reorder_gap;   /* 0: 1 */
    uint32_t queue;         /* frames kept at most per direction; 0: 1024; what comes more is lost */
    uint32_t direction;     /* enum nfm_direction; 0: both */
} nfm_impair_config;

typedef struct nfm_impair_stats {
    uint64_t seen, dropped, duplicated, reordered, delayed, corrupted;
    uint64_t overflow; /* lost: the queue was full */
    uint64_t no_slot;  /* duplicated or corrupted not, since there was no slot for the copy */
    uint64_t kept;     /* now */
} nfm_impair_stats;

nfm_port *nfm_port_impair_new(nfm_port *inner, const nfm_impair_config *config, nfm_error *err);
/* direction: NFM_DIR_RX or NFM_DIR_TX. NFM_E_INVAL: no such port or direction. */
int nfm_port_impair_stats(const nfm_port *port, uint32_t direction, nfm_impair_stats *out);

/* What passes a port, in a pcapng file. A thread writes it; whatever happens to the file, the port
 * goes on. Begin and end belong to the worker's thread, between two nfm_worker_run. */
typedef struct nfm_filter nfm_filter;
typedef struct nfm_tee_config {
    const char *path;
    const nfm_filter *filter; /* of packets, not of what the flow did before; NULL: all. Borrowed */
    uint64_t max_frames;      /* recording ends then; 0: no limit */
    uint64_t max_bytes;       /* of frames */
    uint32_t snaplen;         /* 0: whole frames */
    uint32_t direction;       /* enum nfm_direction; 0: both */
    uint32_t buffer;          /* bytes between port and file, a power of two; 0: 4 MiB */
    uint32_t link_type;       /* LINKTYPE_ of the port's frames; others are not recorded */
    uint64_t max_file;        /* bytes, about: then another file is begun; 0: one file */
    uint32_t max_files;       /* that are kept, the one that is written included; with max_file, >= 1 */
    uint32_t reserved;
} nfm_tee_config;

typedef struct nfm_tee_stats {
    uint64_t seen, recorded, bytes;
    uint64_t not_matched; /* by the filter, or of another link type */
    uint64_t lost;    /* the file was slower than the link; once it has failed, all */
    uint64_t written; /* in the file, as far as the thread knows */
    uint32_t recording; /* 1: on; 0: not begun, ended, a limit reached, or the file failed */
    uint32_t failed;    /* 1: the file could not be written; nfm_port_tee_stop says why */
    uint32_t ended;     /* 1: the file is closed: nfm_port_tee_stop does not wait */
    uint32_t files;     /* that were begun */
} nfm_tee_stats;

nfm_port *nfm_port_tee_new(nfm_port *inner, nfm_error *err); /* records nothing yet */
int nfm_port_tee_start(nfm_port *port, const nfm_tee_config *config, nfm_error *err);
/* Says that nothing follows; nfm_tee_stats.ended says when the file is written. Does not wait. */
int nfm_port_tee_end(nfm_port *port);
/* Ends the recording: all that was recorded is in the file, or err says why not. */
int nfm_port_tee_stop(nfm_port *port, nfm_error *err);
int nfm_port_tee_stats(const nfm_port *port, nfm_tee_stats *out);

/* The same of what an NF is handed (NFM_DIR_RX), and of what its verdicts let pass (NFM_DIR_TX), by
 * the NF's process: shown the next |n| entries of a ring that it has handled and not passed. */
typedef struct nfm_recorder nfm_recorder;
nfm_recorder *nfm_recorder_open(const nfm_tee_config *config, nfm_error *err);
void nfm_recorder_take(nfm_recorder *recorder, const nfm_ring *ring, const nfm_mem *mem, uint32_t n);
void nfm_recorder_end(nfm_recorder *recorder);
void nfm_recorder_stats(const nfm_recorder *recorder, nfm_tee_stats *out);
int nfm_recorder_close(nfm_recorder *recorder, nfm_error *err); /* waits until all is written */

/* A live interface through packet sockets (Linux); frames are Ethernet, or plain IP where the
 * interface has no link header. GSO frames and frames without checksum pass whole. */
typedef struct nfm_afpacket_config {
    const char *interface;
    uint32_t rx_frames;    /* of 2 KiB in the receive ring, at least; 0: 4096 */
    uint32_t tx_frames;    /* in the transmit ring, likewise; 0: 512 */
    uint32_t block_ms;     /* 0: each frame is seen at once; else frames come in blocks, when full or
                              after so long: less work per frame, for observers; rx_frames >= 1024 */
    uint32_t fanout_group; /* 1..65535: packets are spread over all ports of this group on the
                              interface, both directions of a flow alike; 0: this port sees all */
    uint8_t promiscuous;   /* 1: frames for other MAC addresses, too */
    uint8_t qdisc_bypass;  /* 1: short frames go past the interface's queueing discipline */
    uint8_t send_only;     /* 1: nothing is received */
} nfm_afpacket_config;

nfm_port *nfm_port_afpacket_open(const nfm_afpacket_config *config, nfm_error *err);

/* An Ethernet interface of this kernel whose other end is the port. */
typedef struct nfm_tap_config {
    const char *interface; /* made if there is none of this name; tap%d: the kernel counts */
    uint32_t mtu;          /* 0: as it is */
    uint8_t up;            /* 1: takes the interface up */
    uint8_t persist;       /* 1: it outlives the port */
    uint8_t offload;       /* 1: the kernel may hand over GSO frames and frames without checksum */
    uint8_t multi_queue;   /* 1: several ports may open it, the kernel spreads flows over them */
} nfm_tap_config;

nfm_port *nfm_port_tap_open(const nfm_tap_config *config, nfm_error *err);

void nfm_port_stats_get(const nfm_port *port, nfm_port_stats *out);
const char *nfm_port_warning(const nfm_port *port); /* NULL, or one line (truncated file: offset) */
void nfm_port_free(nfm_port *port);

/* Capture writer. format: 0 pcap microsecond, 1 pcap nanosecond, 2 pcapng (nanosecond). */
typedef struct nfm_pcap_writer nfm_pcap_writer;
nfm_pcap_writer *nfm_pcap_writer_open(const char *path, int format, uint32_t link_type,
                                      uint32_t snaplen, nfm_error *err);
typedef struct nfm_captured_frame {
    const uint8_t *data;
    uint32_t len, wire_len;
    int64_t ts_ns;
    uint32_t way; /* NFM_DIR_RX, NFM_DIR_TX or 0 */
} nfm_captured_frame;
int nfm_pcap_writer_write(nfm_pcap_writer *writer, const uint8_t *frame, uint32_t len,
                          uint32_t wire_len, int64_t ts_ns);
/* The same with the way the frame went (NFM_DIR_RX, NFM_DIR_TX; 0: not known), which pcapng keeps. */
int nfm_pcap_writer_write_way(nfm_pcap_writer *writer, const nfm_captured_frame *frame);
/* pcapng: how many frames were received, and how many of them lost on the way to the file. */
int nfm_pcap_writer_write_totals(nfm_pcap_writer *writer, uint64_t received, uint64_t lost);
int nfm_pcap_writer_flush(nfm_pcap_writer *writer); /* what is buffered is in the file */
int nfm_pcap_writer_close(nfm_pcap_writer *writer, nfm_error *err); /* flushes, frees */
/* Several captures as one, in the order of their frames' times; of equals the earlier part's first. */
int nfm_pcap_merge(const char *const *parts, uint32_t n, const char *path, int format,
                   nfm_error *err);

/* ---- stack modules ------------------------------------------------------------------------ */

typedef struct nfm_module nfm_module; /* see module.h */

typedef struct nfm_limit_def {
    const char *name; /* "flow_slots" */
    uint64_t value;   /* default */
    uint64_t min, max;
    const char *doc;
} nfm_limit_def;

typedef struct nfm_module_info { /* a module's descriptor as plain data */
    const char *name;
    const char *summary;
    const char *const *needs; /* event names, NULL-terminated */
    const nfm_event_def *emits;
    const nfm_limit_def *limits;
    const char *const *counters; /* names, NULL-terminated */
    uint32_t n_emits;
    uint32_t n_limits;
    uint32_t flow_size; /* bytes of state per flow */
    uint32_t phase;     /* enum nfm_phase */
} nfm_module_info;

enum nfm_phase { /* order in the worker */
    NFM_PHASE_IP = 0,     /* before flow lookup: fragments */
    NFM_PHASE_TRACK = 1,  /* tcp_track, udp */
    NFM_PHASE_STREAM = 2, /* tcp_stream */
    NFM_PHASE_APP = 3     /* consumes events, raises typed events */
};

const nfm_module *const *nfm_builtin_modules(uint32_t *n);
/* Loads a module from a shared library: symbol is the name of its nfm_module object. */
const nfm_module *nfm_module_load(const char *path, const char *symbol, nfm_error *err);
int nfm_module_describe(const nfm_module *module, nfm_module_info *out);

/* ---- filters ------------------------------------------------------------------------------ */

enum nfm_filter_op_kind {
    NFM_OP_AND = 1, NFM_OP_OR, NFM_OP_NOT, /* pop operands, push result */
    NFM_OP_BPF,   /* text: pcap-filter expression on the innermost L3 packet */
    NFM_OP_BPF_L2, /* text: pcap-filter expression on the whole frame (ether, vlan terms); false
                      for frames that are not Ethernet's */
    NFM_OP_FIELD  /* compares a field with a literal */
};

enum nfm_compare { NFM_EQ = 1, NFM_NE, NFM_LT, NFM_LE, NFM_GT, NFM_GE, NFM_CONTAINS, NFM_STARTSWITH,
                   NFM_ENDSWITH, NFM_IN_NET };

typedef struct nfm_filter_op { /* one step of a postfix program */
    uint32_t kind;    /* enum nfm_filter_op_kind */
    uint32_t compare; /* enum nfm_compare */
    nfm_field_def field;
    uint64_t number;  /* unsigned literal; also BOOL */
    int64_t integer;  /* I64 and TIME literal */
    double real;      /* F64 literal */
    const uint8_t *bytes; /* BYTES/STR literal, or an address */
    uint32_t bytes_len;   /* of an address: 4 IPv4, 16 IPv6 */
    uint32_t prefix; /* NFM_IN_NET: bits */
    const char *text; /* BPF source */
} nfm_filter_op;

/* Compiles a postfix program; err.text carries libpcap's words. NULL on error. */
nfm_filter *nfm_filter_new(const nfm_filter_op *ops, uint32_t n, nfm_error *err);
void nfm_filter_free(nfm_filter *filter);
/* 1: the whole filter is decided by the flow's key and the sender's side. */
int nfm_filter_is_key_only(const nfm_filter *filter);
/* Marks which of |n| descriptors pass the filter: out[i] is 1 or 0. */
void nfm_filter_select(const nfm_filter *filter, const nfm_mem *mem, const nfm_desc *desc,
                       uint32_t n, uint8_t *out);

/* ---- shared objects ----------------------------------------------------------------------- */

/* What a worker writes and NFs map read-only, as memfds. The header says what the others hold. */
enum nfm_object { NFM_OBJ_HEADER = 0, NFM_OBJ_PACKETS, NFM_OBJ_RECORDS, NFM_OBJ_FIELDS,
                  NFM_OBJ_FLOWS, NFM_OBJ_COUNT };

enum nfm_backing { /* what memory an object lies on, best first */
    NFM_BACKING_NONE = 0,
    NFM_BACKING_HUGE_1G,
    NFM_BACKING_HUGE_2M,
    NFM_BACKING_ORDINARY, /* memfd of ordinary pages */
    NFM_BACKING_PRIVATE   /* not shared: this process' own memory */
};

typedef struct nfm_object_info {
    int32_t fd;       /* close-on-exec */
    uint32_t backing; /* enum nfm_backing */
    uint64_t size;    /* bytes */
} nfm_object_info;

/* Creates a memfd of at least |size| bytes, mode 0600, huge pages first, sealed against resizing.
 * The caller closes out->fd. Returns NFM_OK, or a negative status with the reason in err. */
int nfm_object_create(const char *name, uint64_t size, nfm_object_info *out, nfm_error *err);
/* A descriptor of the same object that can only be read and mapped read-only; -1 with err set. */
int nfm_object_read_only(int fd, nfm_error *err);

typedef struct nfm_worker nfm_worker;

/* An NF's view of a worker's objects. fds has NFM_OBJ_COUNT read-only descriptors, which stay the
 * caller's. NULL when the header is of another ABI (err names both versions) or sizes lie. */
typedef struct nfm_attachment nfm_attachment;
nfm_attachment *nfm_attach(const int32_t *fds, nfm_error *err);
const nfm_mem *nfm_attachment_mem(const nfm_attachment *attachment);
void nfm_attachment_free(nfm_attachment *attachment);

/* Bytes of a ring object for |entries| (a power of two). */
uint64_t nfm_ring_object_size(uint32_t entries);
/* The receiver's side of a ring object; goes on where the last receiver stopped. */
nfm_ring *nfm_ring_attach(int fd, nfm_error *err);
void nfm_ring_detach(nfm_ring *ring);
/* Says that there is no receiver until the next nfm_ring_attach: by the receiver itself when it has
 * passed its last entry, or by who keeps its rings. What was passed before is judged; later packets
 * do not wait for verdicts, but take the policy. */
void nfm_ring_leave(nfm_ring *ring);

enum nfm_ring_state { NFM_RING_READY = 1, NFM_RING_TIMEOUT = 2, NFM_RING_ENDED = 3 };
/* Waits until an entry is there: spins for |spin_ns|, then sleeps at most |timeout_ns| (-1: for
 * ever). NFM_RING_ENDED: the worker has said that nothing will follow, and the ring is empty. */
int nfm_ring_wait(nfm_ring *ring, int64_t spin_ns, int64_t timeout_ns);
/* Position (from 0) of the next entry that peek returns: same after a restart. */
uint64_t nfm_ring_position(const nfm_ring *ring);

/* Event time that entries are not earlier than which are not in the ring yet: what it is read
 * before. Only one of several workers says so, others leave it at 0. INT64_MAX: nothing follows. */
int64_t nfm_ring_clock(const nfm_ring *ring);
/* The last packet up to then: no entry of an earlier one follows at that very time. */
uint64_t nfm_ring_clock_packet(const nfm_ring *ring);

/* Entries missing at the next position of a lossy ring, 0 when an entry stands there. A gap takes
 * one position: nfm_ring_advance(ring, 1) passes it. nfm_ring_peek stops before gaps. */
uint64_t nfm_ring_gap(const nfm_ring *ring);

/* What a receiver asks of the worker, in order, by a queue beside its ring. The worker takes
 * commands before it releases what the receiver passed after it. */
enum nfm_command_kind {
    NFM_CMD_HOLD = 1,        /* number: hold, a: record that is not passed yet: it stays */
    NFM_CMD_RELEASE = 2,     /* number: hold */
    NFM_CMD_SUBSCRIBE = 3,   /* a: flow id, number: group of subscriptions that begin there */
    NFM_CMD_UNSUBSCRIBE = 4, /* a: flow id, number: group that ends there, NFM_ALL_GROUPS all */
    NFM_CMD_BEGIN = 5,       /* a receiver has attached: the holds of the one before are released */
    NFM_CMD_JUDGE = 6,       /* number: hold of a kept packet, a: verdict; the hold is released. b: 0,
                                or the size of the nfm_edit that lies in the ring's out */
    NFM_CMD_INJECT = 7,      /* number: port, b: bytes of the frame that lies in the ring's out */
    NFM_CMD_RAISE = 8        /* number: event type, a: position of the entry that it is about, b: bytes
                                of the field record that lies in the ring's out */
};

enum nfm_receiver_limit {
    NFM_COMMANDS = 512,        /* of a ring at most, not yet taken */
    NFM_MAX_HOLDS = 4096,      /* of a ring at most */
    NFM_ALL_GROUPS = 0xffffff,
    NFM_INLINE_GROUPS = 0xfffffe, /* those whose packets wait */
    NFM_OUT_BYTES = 262144       /* of a ring's out, a power of two */
};

typedef struct nfm_command {
    uint32_t kind; /* enum nfm_command_kind */
    uint32_t number;
    uint64_t a, b;
    uint64_t out_end; /* position in the ring's out behind this command's bytes */
    uint8_t data[32];
} nfm_command;

/* Keeps a record of an entry that is not passed yet, with its bytes, fields and flow facts, until
 * nfm_ring_release. Returns the hold's number, NFM_E_LIMIT when the quota is used up, or NFM_E_AGAIN
 * when the queue of commands is full: the worker will take some. */
int nfm_ring_hold(nfm_ring *ring, uint32_t record);
int nfm_ring_release(nfm_ring *ring, uint32_t hold);
/* Begins or ends a group of this receiver's subscriptions on one flow, from the flow's next packet
 * on that the worker sees. A flow that has ended is no error. NFM_OK or NFM_E_AGAIN. */
int nfm_ring_subscribe(nfm_ring *ring, uint64_t flow, uint32_t group);
int nfm_ring_unsubscribe(nfm_ring *ring, uint64_t flow, uint32_t group);

/* The verdicts of the next |n| entries, all set to PASS, and their edits: for as many as
 * nfm_ring_peek returned, until nfm_ring_advance. */
uint32_t *nfm_ring_verdicts(nfm_ring *ring, uint32_t n);
nfm_edit *nfm_ring_edits(nfm_ring *ring);
/* Room for the |len| bytes of a payload, which an edit with NFM_EDIT_PAYLOAD names by *off; they are
 * the worker's when the entry is passed. NULL: what was put there before is not taken yet, or len is
 * more than half of NFM_PAYLOAD_BYTES. */
enum { NFM_PAYLOAD_BYTES = 262144 };
uint8_t *nfm_ring_payload(nfm_ring *ring, uint32_t len, uint32_t *off);
/* How many of |n| entries, as nfm_ring_peek found them, may get other payloads now, twice as long as
 * their own and more: for receivers that replace many. */
uint32_t nfm_ring_payloads_fit(nfm_ring *ring, const nfm_mem *mem, const nfm_desc *desc, uint32_t n);
/* Says what becomes of a packet that was kept by |hold|. NFM_OK or NFM_E_AGAIN. */
int nfm_ring_judge(nfm_ring *ring, uint32_t hold, uint32_t verdict);
/* The same with the verdict NFM_REWRITE, by |edit|, which is copied. */
int nfm_ring_rewrite(nfm_ring *ring, uint32_t hold, const nfm_edit *edit);
/* Sends a frame of the receiver's own by the worker's port number |port|, checksums included; it is
 * copied, and passes no NF. For inline receivers. NFM_OK; NFM_E_AGAIN: the worker must take some first;
 * NFM_E_INVAL: |len| is 0 or more than NFM_MAX_FRAME. What has no such port is command.bad. */
int nfm_ring_inject(nfm_ring *ring, uint32_t port, const uint8_t *frame, uint32_t len);

/* Raises an application event with the verdict on an entry: the one that stands |entry| places behind
 * the first that is not passed. Call it before the entry is passed, and as long as its packet waits.
 * Receivers of the type get the event; inline ones of later stages decide on it while the packet still
 * waits. The type is one that the receiver may raise (nfm_worker_allow_raise); |fields| is its field
 * record of |len| bytes, which is copied: 8-byte cells, and behind them the bytes to which cells of
 * bytes, text and addresses point by {u32 offset, u32 length}. NFM_OK; NFM_E_AGAIN: the worker must take
 * some commands first; NFM_E_INVAL: |len| is more than NFM_RAISE_BYTES. What the worker cannot take is
 * counted as inline.bad_raise. */
enum { NFM_RAISE_BYTES = 65536 };
int nfm_ring_raise(nfm_ring *ring, uint32_t entry, uint32_t type, const uint8_t *fields, uint32_t len);

typedef struct nfm_ring_stats {
    uint64_t head, tail;  /* entries published and passed, ever */
    uint64_t dropped;     /* lossy: not delivered because the ring was full */
    uint64_t gaps;        /* lossy: runs of dropped entries that were told to the receiver */
    uint32_t holds, max_holds; /* records held now, and the quota */
    uint64_t bad_tails;   /* positions outside the ring that the receiver claimed */
    uint64_t wakeups;     /* of a sleeping receiver */
    uint32_t entries, quarantined;
} nfm_ring_stats;
void nfm_ring_stats_get(const nfm_ring *ring, nfm_ring_stats *out);

/* ---- event logs of NFs -------------------------------------------------------------------- */

/* One NF writes its log; its readers map it read-only. A reader's place is in a cursor object of
 * its own, which it alone writes and the writer maps read-only. Entries are application events in
 * the layout of records, flow facts and field records, so a read batch is gathered like any other.
 *
 * A writer's work comes in runs: |n| entries of a source from position |first| on. A source is the
 * ring of a worker (its id) or a log that the NF reads (NFM_LOG_HEARD + its number). An event's
 * name is (source, first, ordinal in the run). A writer begun again finds the run that its
 * predecessor had not finished (nfm_log_pending) and does it again with the same bounds; events
 * that the log has already are counted, not written again. */
enum nfm_log_const {
    NFM_LOG_SOURCES = 128,
    NFM_LOG_HEARD = 64,        /* first source that is a log */
    NFM_LOG_READERS = 64,
    NFM_LOG_MIN = 65536,       /* bytes of capacity, a power of two */
    NFM_LOG_BATCH = 1024       /* entries of a batch at most */
};

typedef struct nfm_log nfm_log;               /* the writer's side */
typedef struct nfm_log_reader nfm_log_reader; /* a reader's side */

/* Bytes of a log object for |capacity| bytes of entries (a power of two), 0 when out of range. */
uint64_t nfm_log_object_size(uint64_t capacity);
uint64_t nfm_log_cursor_size(void);
/* The writer's side of a log object: lays out a new one, goes on with what a dead writer left.
 * |deadline_ns|: how long a write waits for lossless readers. NULL with the reason in err. */
nfm_log *nfm_log_open(int fd, int64_t deadline_ns, nfm_error *err);
void nfm_log_close(nfm_log *log);
/* Counts a reader in. lossless: writes wait for it, up to the deadline; after a deadline only when
 * it has caught up. Returns its number (0..) or a negative status. The descriptor may be read-only
 * and stays the caller's. */
int nfm_log_add_reader(nfm_log *log, int cursor_fd, int lossless, nfm_error *err);
int nfm_log_remove_reader(nfm_log *log, uint32_t reader);
/* Begins a run. */
int nfm_log_begin(nfm_log *log, uint32_t source, uint64_t first, uint32_t n);
/* The last run begun of |source|, in this process or before: 1, or 0 when there was none. */
int nfm_log_pending(const nfm_log *log, uint32_t source, uint64_t *first, uint32_t *n);
/* Appends application events of the run in order, and wakes readers that sleep. Returns how many
 * are in the log now: all but those larger than nfm_log_stats.max_entry, which are counted. */
int nfm_log_write(nfm_log *log, const nfm_batch *batch);
/* Says that nothing follows: waiting readers see NFM_RING_ENDED. */
void nfm_log_end(nfm_log *log);

typedef struct nfm_log_stats {
    uint64_t head;      /* bytes written, ever */
    uint64_t written;   /* entries, ever, by all writers that the log had */
    uint64_t repeated;  /* not written again */
    uint64_t too_large; /* not written */
    uint64_t waits;     /* for lossless readers */
    uint64_t missed_deadlines; /* of lossless readers, which lost entries then */
    uint64_t bad_cursors;      /* positions behind the last one or past the head: ignored */
    uint64_t wakeups;
    uint64_t capacity;  /* bytes */
    uint32_t max_entry; /* bytes */
    uint32_t readers;
} nfm_log_stats;
void nfm_log_stats_get(const nfm_log *log, nfm_log_stats *out);

/* A reader. A new cursor begins at the log's first entry ever, or with |from_now| behind the last;
 * a cursor that was used before goes on where it was. NULL with the reason in err. */
nfm_log_reader *nfm_log_attach(int log_fd, int cursor_fd, int from_now, nfm_error *err);
void nfm_log_detach(nfm_log_reader *reader);
/* The next entries, up to |max|, copied out and checked: valid until the next call. n is 0 when
 * there are none. Reading on without nfm_log_advance returns the entries behind them. */
const nfm_batch *nfm_log_read(nfm_log_reader *reader, uint32_t max);
/* Passes everything read: the writer may overwrite it, and a restart goes on behind it. */
void nfm_log_advance(nfm_log_reader *reader);
/* Waits for an entry: spins for |spin_ns|, then sleeps at most |timeout_ns| (-1: for ever).
 * Returns enum nfm_ring_state. Only a reader that the writer counts is woken when it sleeps. */
int nfm_log_wait(nfm_log_reader *reader, int64_t spin_ns, int64_t timeout_ns);
/* Rings and logs to wait at together. */
typedef struct nfm_wait_set {
    nfm_ring *const *rings;
    nfm_log_reader *const *logs;
    uint32_t n_rings, n_logs;
} nfm_wait_set;
/* Waits as nfm_ring_wait does until one of them has an entry; NFM_RING_ENDED: all have ended and
 * are empty. NFM_E_NOMEM with more than 16 of them and no memory. */
int nfm_wait_any(const nfm_wait_set *set, int64_t spin_ns, int64_t timeout_ns);
/* Position of the next entry that is not passed: same after a restart. */
uint64_t nfm_log_position(const nfm_log_reader *reader);

typedef struct nfm_log_reader_stats {
    uint64_t position; /* passed */
    uint64_t behind;   /* bytes in the log that are not read */
    uint64_t read;     /* entries */
    uint64_t lost;     /* entries overwritten before they were read */
    uint64_t gaps;     /* runs of lost entries */
    uint64_t bad;      /* times that the log made no sense and was skipped to its end */
} nfm_log_reader_stats;
void nfm_log_reader_stats_get(const nfm_log_reader *reader, nfm_log_reader_stats *out);

/* The loop of a native NF that hears rings alone. */
enum { NFM_SERVE_RINGS = 64 };
typedef struct nfm_served_ring {
    nfm_ring *ring;
    const nfm_mem *mem; /* that its entries refer to */
    uint32_t source;    /* its number in |work| */
    uint32_t reserved;
} nfm_served_ring;

typedef struct nfm_serve_config {
    nfm_process_fn process;
    void *state;
    const nfm_served_ring *rings;
    uint32_t n_rings;   /* 1 to NFM_SERVE_RINGS */
    uint8_t in_line;    /* 1: the NF decides */
    uint8_t fail_open;  /* 1: entries of a batch that it refuses pass; 0: they are dropped */
    uint8_t reserved[2];
    int64_t spin_ns, idle_ns, turn_ns; /* waits awake; asleep; all in all */
    int64_t *beat;  /* monotonic time after each batch; NULL: nowhere */
    uint64_t *work; /* while a batch is at work: source | entries << 32, position; NULL: nowhere */
} nfm_serve_config;

typedef struct nfm_served {
    uint64_t events, batches;
    int64_t now_ns;   /* event time of the last entry; 0: there was none */
    int32_t status;   /* what the NF refused its last batch with */
    uint32_t stopped; /* 1: it did, or a gap is next in some ring: nfm_ring_gap */
} nfm_served;

/* Hands what comes to the NF until the turn is over, NFM_RING_READY; or nothing came for |idle_ns|,
 * NFM_RING_TIMEOUT; or nothing follows, NFM_RING_ENDED. NFM_E_INVAL. */
int nfm_serve(const nfm_serve_config *config, nfm_served *out);

/* ---- application modules on a core of their own -------------------------------------------- */

/* A module host is a process that runs one application module of a worker. It maps the worker's
 * objects read-only, takes what the module needs from a ring, and answers through an answer ring. */
enum { NFM_ANSWERS_MIN = 1048576 /* bytes of capacity at least, a power of two */ };
/* Bytes of an answer ring's object for |capacity| bytes of answers, 0 when out of range. */
uint64_t nfm_answers_object_size(uint64_t capacity);

typedef struct nfm_module_host_config {
    const nfm_module *module;
    const uint64_t *limits; /* as in nfm_worker_add_module */
    const int32_t *fds;     /* the worker's objects by enum nfm_object, read-only */
    int32_t ring_fd, answers_fd; /* all descriptors stay the caller's */
    int64_t *beat; /* written while the host waits for room: monotonic ns; NULL: nowhere */
} nfm_module_host_config;

typedef struct nfm_module_host nfm_module_host;
/* The host's side, once the worker has laid out its objects. NULL with the reason in err. */
nfm_module_host *nfm_module_host_new(const nfm_module_host_config *config, nfm_error *err);
/* Serves what is asked: waits as nfm_ring_wait does and returns what that returns. */
int nfm_module_host_run(nfm_module_host *host, int64_t spin_ns, int64_t timeout_ns);
void nfm_module_host_free(nfm_module_host *host);

typedef struct nfm_module_host_stats {
    uint64_t asked;    /* questions passed */
    uint64_t raised;   /* events */
    uint64_t waits;    /* for room in the answer ring */
    uint64_t resets;   /* times that all flows were forgotten */
    uint64_t refused;  /* references to the worker's slots, which a host cannot hold */
    uint32_t session;
    uint32_t reserved;
} nfm_module_host_stats;
void nfm_module_host_stats_get(const nfm_module_host *host, nfm_module_host_stats *out);

/* ---- the worker --------------------------------------------------------------------------- */

typedef struct nfm_worker_config {
    uint32_t size; /* sizeof(nfm_worker_config), set by nfm_worker_config_init */
    uint32_t id;   /* 0..255, part of flow ids */
    uint32_t n_small, n_large;  /* slots */
    uint32_t n_records;
    uint32_t max_flows;   /* power of two */
    uint64_t fields_size; /* bytes */
    uint64_t hash_key[2]; /* keyed flow hash; 0,0: fixed key (deterministic) */
    uint32_t max_tunnel_depth; /* headers peeled, default 4; 0 stops at the outermost */
    uint8_t verify_checksums;  /* 1: bad TCP/UDP checksums make the packet malformed */
    uint8_t key_vlan;   /* 1: VLAN ids are part of the flow key */
    uint8_t key_tunnel; /* 1: tunnel id is part of the flow key */
    uint8_t reserved;
    uint32_t idle_s[8]; /* time-outs by enum nfm_idle_class; 0 default */
    uint32_t update_s;  /* period of flow.update, default 60 */
    int32_t fds[5]; /* by enum nfm_object: writable objects to lie in; -1: private memory */
} nfm_worker_config;

enum nfm_idle_class {
    NFM_IDLE_TCP_SYN = 0,    /* handshake unfinished: 240 s (RFC 5382 REQ-5, transitory) */
    NFM_IDLE_TCP_EST = 1,    /* 7440 s (RFC 5382 REQ-5: not less than 2 h 4 min) */
    NFM_IDLE_TCP_CLOSE = 2,  /* one or both FINs: 240 s */
    NFM_IDLE_TCP_GONE = 3,   /* closed or reset, waits for stragglers: 10 s */
    NFM_IDLE_UDP = 4,        /* 300 s (RFC 4787 REQ-5, recommended) */
    NFM_IDLE_ICMP = 5,       /* 60 s (RFC 5508 REQ-2) */
    NFM_IDLE_OTHER = 6       /* 600 s */
};

typedef struct nfm_subscription {
    nfm_ring *ring;
    uint32_t handler;    /* 0..255, returned in descriptors */
    uint32_t level;      /* enum nfm_level that the events need */
    uint64_t events;     /* built-in event bits */
    uint32_t type_first; /* application types type_first..type_last, none when last < first */
    uint32_t type_last;
    uint64_t modules;    /* bit per application module (order of nfm_worker_add_module) it needs */
    const nfm_filter *filter; /* NULL: all. Borrowed: must outlive the worker. */
    uint32_t as_type;    /* a named user event: deliver under this type id; 0: as is */
    uint8_t group;       /* the receiver's: what begins and ends on a flow together */
    uint8_t per_flow;    /* 1: on no flow until the receiver subscribes it there */
    uint8_t in_line;     /* 1: packets wait for the receiver's verdict */
    uint8_t stage;       /* of an inline one: smaller ones are asked before */
} nfm_subscription;

enum nfm_level { /* what the stack does for a flow */
    NFM_LEVEL_PACKET = 0, NFM_LEVEL_TRACK = 1, NFM_LEVEL_DATA = 2, NFM_LEVEL_SPLIT = 3,
    NFM_LEVEL_PROXY = 4, NFM_LEVEL_ENDPOINT = 5
};

enum nfm_run_reason {
    NFM_RUN_BUDGET = 1, /* max_packets done */
    NFM_RUN_DRAIN = 2,  /* a ring wants draining before the worker goes on */
    NFM_RUN_EOF = 3     /* all ports at their end and all flows closed */
};

void nfm_worker_config_init(nfm_worker_config *config);
/* Bytes that each object must have for |config|: sizes[NFM_OBJ_COUNT]. */
int nfm_worker_object_sizes(const nfm_worker_config *config, uint64_t *sizes, nfm_error *err);
nfm_worker *nfm_worker_new(const nfm_worker_config *config, nfm_error *err);
void nfm_worker_free(nfm_worker *worker);
int nfm_worker_add_port(nfm_worker *worker, nfm_port *port); /* borrowed */
/* Ends the use of all ports: each stops and gives back the slots that it holds; the worker receives
 * nothing more. nfm_worker_free does it, too: who frees ports before the worker does it himself. */
void nfm_worker_release_ports(nfm_worker *worker);
/* Before start: every flow gets room for the state of |module|, so that a tracking or stream module
 * of this size may be added while the worker runs. It costs memory per flow, and nothing per packet. */
int nfm_worker_reserve_module(nfm_worker *worker, const nfm_module *module, nfm_error *err);
/* limits: n_limits values in the order of the descriptor, or NULL for the defaults.
 * types: the application type id of each emitted event (0 for built-in bits).
 * While running, NFM_E_STATE says that no room was reserved for a tracking or stream module, or that
 * another one has its place. Flows under way join at their next packet (midstream).
 * Returns the module's index (0..) or a negative status. */
int nfm_worker_add_module(nfm_worker *worker, const nfm_module *module, const uint64_t *limits,
                          const uint32_t *types, nfm_error *err);
/* An application module that another process hosts: see nfm_module_host_new. limits and types are as
 * above. ordered: 1 delivers all records in the order of their packets and waits for a host that is
 * not there, for captures; 0 keeps the order within each flow only. A host that does not answer for
 * |deadline_ns| is not waited for. */
typedef struct nfm_hosting {
    const nfm_module *module;
    const uint64_t *limits;
    const uint32_t *types;
    int32_t ring_fd, answers_fd; /* stay the caller's */
    int64_t deadline_ns;
    uint32_t ordered;
    uint32_t reserved;
} nfm_hosting;
int nfm_worker_add_hosted_module(nfm_worker *worker, const nfm_hosting *hosting, nfm_error *err);
/* A receiver's ring; entries is a power of two. Owned by the worker. NULL on failure. */
nfm_ring *nfm_worker_add_ring(nfm_worker *worker, uint32_t entries, nfm_error *err);
/* A receiver's ring in a ring object that another process reads; also while running. lossy: 1 counts
 * what does not fit, 0 stops polling until there is room. An object with entries in it is adopted:
 * they stay valid until passed. NULL on failure. fd stays the caller's. */
nfm_ring *nfm_worker_add_shared_ring(nfm_worker *worker, int fd, int lossy, nfm_error *err);
/* What arrives at port number |in| leaves by |out| (in the order of nfm_worker_add_port), unless an
 * inline NF says otherwise; NFM_NO_PORT: nowhere. Before start. */
enum nfm_port_number { NFM_NO_PORT = 0xff };
int nfm_worker_forward(nfm_worker *worker, uint32_t in, uint32_t out);
/* Receives nothing from a port: it is as if at its end. Before start. */
int nfm_worker_send_only(nfm_worker *worker, uint32_t port);

/* One worker of several that share the packets, flow by flow: by nfm_owner of the innermost
 * headers, put together where they were fragmented. */
typedef struct nfm_sharing {
    uint32_t n_workers;   /* their ids are 0 to n_workers - 1 */
    uint32_t read_by_all; /* bit per port: every worker reads the same there */
    const int32_t *to, *taken; /* by worker: handover objects, written to it and read from it; -1: none */
    const int32_t *bells;     /* by worker: eventfds that wake it; -1: none */
} nfm_sharing;
/* Where every worker reads the same captures it leaves to the others what is theirs; frames keep
 * their numbers (nfm_record.packet) and event time goes on with all of them. At other ports it hands
 * over what is theirs. After the ports, before start. */
int nfm_worker_share(nfm_worker *worker, const nfm_sharing *sharing, nfm_error *err);
/* Which of |n_workers| has a flow, by its addresses, ports, protocol and IP version. */
uint32_t nfm_owner(const nfm_flow_info *flow, uint32_t n_workers);
uint64_t nfm_handover_object_size(void);
/* A port that stands for one which only the first worker has. NULL with the reason in err. */
nfm_port *nfm_port_remote_open(nfm_error *err);

/* What inline receivers that do not answer mean for their packets. */
typedef struct nfm_inline_config {
    int64_t deadline_ns; /* of monotonic time; 0: none, packets wait for ever */
    uint32_t fail_open;  /* 1: packets of a late, dead or lying receiver pass; 0: they are dropped */
    uint32_t reserved;
} nfm_inline_config;
/* Makes a blocking receiver one that may have inline subscriptions; before these. */
int nfm_worker_make_inline(nfm_worker *worker, nfm_ring *ring, const nfm_inline_config *config);

/* An event type that an inline receiver may raise, and what its field record looks like. */
typedef struct nfm_raisable {
    uint32_t type;
    uint32_t n_cells;     /* 64 at most */
    uint64_t bytes_cells; /* a bit for each cell that points to bytes */
} nfm_raisable;
enum { NFM_MAX_RAISABLE = 32 }; /* of a receiver */
/* Lets an inline receiver raise events of a type. NFM_OK, NFM_E_INVAL, or NFM_E_LIMIT: too many types. */
int nfm_worker_allow_raise(nfm_worker *worker, nfm_ring *ring, const nfm_raisable *what);

/* Lets a receiver hold up to |holds| records past its tail; before its first entry. All receivers'
 * holds must leave three quarters of the records and half of the slots of each size. */
int nfm_worker_allow_holds(nfm_worker *worker, nfm_ring *ring, uint32_t holds, nfm_error *err);
/* Takes what receivers have asked for, as nfm_worker_run does; not from within it. */
void nfm_worker_take_commands(nfm_worker *worker);
/* Ends a receiver: no entry of it holds memory any longer. Its subscriptions must be gone. */
int nfm_worker_remove_ring(nfm_worker *worker, nfm_ring *ring);
/* Says on all shared rings that nothing follows: waiting receivers see NFM_RING_ENDED. */
void nfm_worker_end_rings(nfm_worker *worker);
/* A worker begun again on a capture: the first |n| entries of each adopted ring are there already;
 * they are counted, not pushed again. Before start. */
int nfm_worker_resume(nfm_worker *worker);
/* A domain: receivers that may not map the worker's memory. Each gets an inbox, objects of its own
 * into which the worker copies the records that its receivers want and the bytes that they
 * subscribed to: frames for packet.*, data for tcp.data, udp.datagram and application events. */
typedef struct nfm_domain_config {
    uint32_t size; /* sizeof(nfm_domain_config), set by nfm_domain_config_init */
    uint32_t n_small, n_large; /* slots */
    uint32_t n_records;        /* power of two; as many flow facts */
    uint64_t fields_size;      /* bytes */
    int32_t fds[5]; /* by enum nfm_object: writable objects to lie in; -1: private memory */
} nfm_domain_config;

void nfm_domain_config_init(nfm_domain_config *config);
/* Bytes that each object must have for |config|: sizes[NFM_OBJ_COUNT]. */
int nfm_domain_object_sizes(const nfm_domain_config *config, uint64_t *sizes, nfm_error *err);
/* Adds a domain, also while running; |name| is part of its counters' names. Returns its number (1..)
 * or a negative status. Descriptors stay the caller's. */
int nfm_worker_add_domain(nfm_worker *worker, const char *name, const nfm_domain_config *config,
                          nfm_error *err);
/* Ends a domain whose rings were removed; its number may be given again. */
int nfm_worker_remove_domain(nfm_worker *worker, uint32_t domain);
/* Gives a ring to a domain, before it is subscribed: its entries name what is in that inbox. */
int nfm_worker_give_ring(nfm_worker *worker, nfm_ring *ring, uint32_t domain);
/* Drains the ring inside nfm_worker_run by calling a native NF. */
int nfm_worker_attach_native(nfm_worker *worker, nfm_ring *ring, nfm_process_fn process,
                             void *state);
/* Returns the subscription's number (0..) or a negative status. While running it takes effect at
 * packet number stats.packets + 1; flows under way join as they are (midstream). */
int nfm_worker_subscribe(nfm_worker *worker, const nfm_subscription *subscription);
int nfm_worker_unsubscribe(nfm_worker *worker, uint32_t subscription);
int nfm_worker_start(nfm_worker *worker, nfm_error *err);
/* Works until a budget of packets is done, a ring must be drained, or the end. Releases what the
 * receivers have passed. Returns enum nfm_run_reason or a negative status. */
int nfm_worker_run(nfm_worker *worker, uint64_t max_packets);
/* What a worker does while ports that do not end are quiet. */
typedef struct nfm_live_config {
    int64_t turn_ns; /* nfm_worker_run goes on for so long, at most 1 s; 0: it returns when quiet */
    int64_t spin_ns; /* it polls for so long after the last packet or verdict, then sleeps */
    uint32_t is_realtime; /* 1: event time is the realtime clock's, and goes on without packets */
    uint32_t reserved;
} nfm_live_config;
/* By the thread that runs the worker, before its first run. */
int nfm_worker_live(nfm_worker *worker, const nfm_live_config *config);
/* Ends all flows now (reason eof), as at the end of the ports. Call run until NFM_RUN_EOF. */
void nfm_worker_finish(nfm_worker *worker);
const nfm_mem *nfm_worker_mem(const nfm_worker *worker);

typedef struct nfm_counter {
    const char *name; /* "tcp_stream.flow_cap"; valid as long as the worker */
    uint64_t value;
} nfm_counter;
/* Copies up to max counters; returns how many there are. */
uint32_t nfm_worker_counters(const nfm_worker *worker, nfm_counter *out, uint32_t max);

typedef struct nfm_worker_stats {
    uint64_t packets, bytes;
    int64_t now_ns; /* event time */
    uint64_t flows_opened, flows_closed;
    uint64_t flows_now, slots_used, records_used;
    uint64_t flow_bytes; /* memory per tracked flow in this plan, all tables included */
    uint64_t mapped_bytes;
    uint64_t foreign; /* frames left to other workers, beside |packets| */
} nfm_worker_stats;
void nfm_worker_stats_get(const nfm_worker *worker, nfm_worker_stats *out);

/* Entries ready for the receiver: *desc points at a contiguous run of the result's length. */
uint32_t nfm_ring_peek(nfm_ring *ring, const nfm_desc **desc, uint32_t max);
/* Passes n entries: their records may be reused after this. */
void nfm_ring_advance(nfm_ring *ring, uint32_t n);

/* Draws a hole through all layers for tests and tools: parses one frame, no flow, no events.
 * Returns 0, or the index of the parse counter that says why the frame is malformed. */
int nfm_parse_frame(const uint8_t *frame, uint32_t len, uint32_t wire_len, uint32_t link_type,
                    uint32_t max_tunnel_depth, nfm_record *out, nfm_flow_info *key);
