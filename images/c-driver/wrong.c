/* Each mistake has the name by which the card's log and `dmus-card explain` know it. */
#include "wrong.h"
#include "machine.h"

#define SECOND DMUS_UNITS_PER_SECOND

static const uint8_t note[] = { 0x90, 60, 100 };
static const uint8_t long_message[] = { 0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7f, 0x00, 0x41, 0xf7 };

static struct dmus_event64 *event(struct stream *stream, unsigned slot)
{
    return &stream->shared->pool[slot].event;
}

static unsigned put_note(struct stream *stream)
{
    unsigned slot = stream_message(stream, SECOND / 2, note, sizeof note);
    stream_submit(stream, slot);
    return slot;
}

/* cbStruct of the other pointer size. */
static void struct_size(struct stream *stream)
{
    event(stream, put_note(stream))->struct_size = sizeof(struct dmus_event32);
}

/* Groups counted from 1. */
static void channel_group(struct stream *stream)
{
    event(stream, put_note(stream))->channel_group = (uint16_t)card_read(stream->card, DMUS_REG_CHANNEL_GROUPS);
}

/* Running status: the status byte is left out. */
static void midi_malformed(struct stream *stream)
{
    stream_submit(stream, stream_message(stream, SECOND / 2, note + 1, sizeof note - 1));
}

/* A pointer behind a header in the buffer, not to its start. */
static void buffer_foreign(struct stream *stream)
{
    unsigned slot = stream_message(stream, SECOND / 2, long_message, sizeof long_message);
    event(stream, slot)->data[0] += 16;
    stream_submit(stream, slot);
}

/* A chain that leads back to its head. */
static void chain_in_flight(struct stream *stream)
{
    unsigned slot = put_note(stream);
    event(stream, slot)->next = bus_address(event(stream, slot));
}

/* The card holds the first until its time. */
static void slot_resubmitted(struct stream *stream)
{
    stream_submit(stream, put_note(stream));
}

/* The tail in bytes instead of entries. */
static void tail_overrun(struct stream *stream)
{
    for (int i = 0; i < 5; i++)
        put_note(stream);
    stream->tail *= sizeof(dmus_submission);
}

/* The address of a slot instead of its number. */
static void entry_no_slot(struct stream *stream)
{
    unsigned slot = stream_message(stream, SECOND / 2, note, sizeof note);
    stream_submit(stream, (unsigned)bus_address(event(stream, slot)));
}

/* Half a register. */
static void register_width(struct stream *stream)
{
    (void)*(volatile uint16_t *)(stream->card->registers + DMUS_REG_STREAMS);
}

/* Less than what was granted before. */
static void grant_backward(struct stream *stream)
{
    card_grant(stream->card, SECOND / 2);
    card_wait(stream->card, SECOND / 2);
    card_grant(stream->card, SECOND / 4);
}

/* Has the card hold a message for a while: from here on it is the card's. */
static unsigned held(struct stream *stream, const uint8_t *bytes, unsigned length)
{
    unsigned slot = stream_message(stream, SECOND / 2, bytes, length);

    stream_submit(stream, slot);
    stream_flush(stream);
    card_grant(stream->card, SECOND / 4);
    card_wait(stream->card, SECOND / 4);
    return slot;
}

/* The slot is filled again before it came home. */
static void slot_changed(struct stream *stream)
{
    event(stream, held(stream, note, sizeof note))->data[1] = 61;
}

/* The next message is put into a buffer whose event has not completed. */
static void buffer_changed(struct stream *stream)
{
    unsigned slot = held(stream, long_message, sizeof long_message);

    stream->shared->buffers[stream->buffer[slot]][7] = 0x7e;
}

static const struct {
    const char *name;
    void (*make)(struct stream *stream);
    int is_silent; /* The driver is told nothing: only a card that checks sees it. */
} mistakes[] = {
    { "struct-size", struct_size, 0 },         { "channel-group", channel_group, 0 },
    { "midi-malformed", midi_malformed, 0 },   { "buffer-foreign", buffer_foreign, 0 },
    { "chain-in-flight", chain_in_flight, 0 }, { "slot-resubmitted", slot_resubmitted, 0 },
    { "tail-overrun", tail_overrun, 0 },       { "entry-no-slot", entry_no_slot, 0 },
    { "register-width", register_width, 0 },   { "grant-backward", grant_backward, 0 },
    { "slot-changed", slot_changed, 1 },       { "buffer-changed", buffer_changed, 1 },
};

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

const char *wrong_name(uint64_t command_line)
{
    const char *at = (const char *)(uintptr_t)command_line, *word = "wrong=";

    while (at && *word)
        if (*at++ != *word++)
            return 0;
    return at;
}

int wrong(const char *name, struct stream *stream)
{
    for (unsigned i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        uint64_t limit = patience();

        if (!same(name, mistakes[i].name))
            continue;
        mistakes[i].make(stream);
        stream_flush(stream);
        while (!mistakes[i].is_silent && !card_read(stream->card, DMUS_REG_FAULT) && !stream->ended[DMUS_STATUS_REJECTED]) {
            if (lost_patience(limit))
                return ERROR_TIMEOUT;
            stream_reclaim(stream);
        }
        card_grant(stream->card, SECOND);
        return card_wait(stream->card, SECOND);
    }
    print("dmus: there is no such mistake\n");
    return ERROR_UNKNOWN;
}
