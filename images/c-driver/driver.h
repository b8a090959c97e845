/* A driver for the DirectMusic card with one render stream. */
#ifndef DRIVER_H
#define DRIVER_H

#include "dmus.h"

/* A small pool, so that slots come round soon. Rings have a power of two of entries, at least one for each slot. */
enum { SLOTS = 16, STRIDE = 64, BUFFERS = 4, BUFFER_SIZE = 256, RING = 16 };

/* No slot, no buffer. */
#define NONE 0xffffu

/* What a function returns that can fail: 0, a DMUS_FAULT_*, or one of these. */
#define ERROR_NO_CARD 1000
#define ERROR_VERSION 1001
#define ERROR_TIMEOUT 1002
#define ERROR_UNKNOWN 1003

struct card {
    volatile uint8_t *registers;
    volatile uint8_t *page;
    uint32_t rung; /* The sleep that the card was woken from last. */
};

/* All that the card reads and writes. */
struct shared {
    union {
        struct dmus_event64 event;
        uint8_t bytes[STRIDE];
    } pool[SLOTS];
    uint8_t buffers[BUFFERS][BUFFER_SIZE];
    struct dmus_completion completions[RING];
    dmus_submission submissions[RING];
};

struct stream {
    struct card *card;
    unsigned number;
    struct shared *shared;
    /* What the driver remembers itself, instead of reading it back from what the card can write to. */
    uint32_t tail, head; /* Submissions and completions so far. */
    unsigned free_slots, free_buffers;
    uint16_t free_slot[SLOTS], free_buffer[BUFFERS];
    uint16_t next[SLOTS];   /* The slot that follows in the chain. */
    uint16_t buffer[SLOTS]; /* The buffer that went with the slot. */
    unsigned ended[DMUS_STATUS_COPIED + 1]; /* Completions by their status. */
    unsigned rejected;                      /* The last DMUS_REJECT_*. */
};

int card_open(struct card *card);
uint32_t card_read(struct card *card, uint32_t offset);
/* Everything before this master time is submitted. */
void card_grant(struct card *card, int64_t time);
/* Waits until the card has played up to this master time. */
int card_wait(struct card *card, int64_t time);

int stream_open(struct stream *stream, struct card *card, unsigned number, struct shared *shared);
int stream_set_state(struct stream *stream, uint32_t state);
/* Master time less stream time, while the stream runs: messages have stream times, grants are master times. */
int64_t stream_time_base(struct stream *stream);
int stream_close(struct stream *stream);
/* Puts a MIDI message for this stream time into a slot; NONE if no slot is free, or no buffer that is large enough. */
unsigned stream_message(struct stream *stream, int64_t time, const uint8_t *bytes, unsigned length);
/* Has `next` follow `slot` in its chain: one submission, applied as one. Both have the same time. */
void stream_chain(struct stream *stream, unsigned slot, unsigned next);
/* Puts a slot, the head of its chain, into the submission ring. The card sees it with the next flush. */
void stream_submit(struct stream *stream, unsigned slot);
void stream_flush(struct stream *stream);
/* Takes home what the card has completed. */
void stream_reclaim(struct stream *stream);

#endif
