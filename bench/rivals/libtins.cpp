/* SPDX-License-Identifier: Apache-2.0 */
/* libtins' stream follower from memory. It has no connection events without reassembly: at level
 * track its payload callbacks are just not registered. */
#include "rival.h"

#include <chrono>
#include <memory>
#include <tins/tcp_ip/stream_follower.h>
#include <tins/tins.h>

namespace {

using Tins::TCPIP::Stream;

struct Follower {
    Tins::TCPIP::StreamFollower streams;
    rival_run *run;

    explicit Follower(rival_run *into) : run(into) {
        streams.new_stream_callback([this](Stream &stream) { opened(stream); });
        /* The default sweeps out what was silent for 5 minutes: none of ours is. */
    }

    void opened(Stream &stream) {
        run->flows++;
        stream.stream_closed_callback([this](Stream &) { run->closed++; });
        if (!run->reassemble)
            return;
        stream.client_data_callback(
            [this](Stream &of) { run->bytes += of.client_payload().size(); });
        stream.server_data_callback(
            [this](Stream &of) { run->bytes += of.server_payload().size(); });
    }
};

std::unique_ptr<Follower> follower;

int start(rival_run *run) {
    follower = std::make_unique<Follower>(run);
    return 0;
}

void feed(rival_run *run, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; i++) {
        const rival_frame &frame = run->frames[i];
        Tins::EthernetII pdu(frame.data, frame.len);
        /* The packet borrows the PDU on the stack: released before it could delete it. */
        Tins::Packet packet(&pdu, Tins::Timestamp(std::chrono::microseconds(frame.ts_ns / 1000)),
                            Tins::Packet::own_pdu());
        follower->streams.process_packet(packet);
        packet.release_pdu();
    }
}

void finish(rival_run *) {
    follower.reset();
}

} // namespace

extern "C" const rival_driver rival = {"libtins", start, feed, finish};
