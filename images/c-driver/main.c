/* Plays a tune of four seconds, says how it went, and powers off. */
#include "driver.h"
#include "machine.h"
#include "wrong.h"

#define MILLISECONDS(n) ((n) * (DMUS_UNITS_PER_SECOND / 1000))

enum { STEPS = 16, CHORD = 3, STEP_MESSAGES = 3 + CHORD };

static struct shared shared __attribute__((aligned(4096)));
static struct card card;
static struct stream stream;

static const uint8_t setup[][2] = { { 0xc0, 11 }, { 0xc1, 48 } };
static const uint8_t gs_reset[] = { 0xf0, 0x41, 0x10, 0x42, 0x12, 0x40, 0x00, 0x7f, 0x00, 0x41, 0xf7 };
static const uint8_t melody[STEPS] = { 72, 76, 79, 76, 69, 72, 76, 72, 65, 69, 72, 69, 67, 71, 74, 79 };
static const uint8_t chords[STEPS / 4][CHORD] = { { 48, 55, 64 }, { 45, 52, 60 }, { 41, 48, 57 }, { 43, 50, 59 } };

static void say(const char *what, uint64_t number)
{
    print(what);
    print_number(number);
    print("\n");
}

/* For a message that has room, as `play` sees to. */
static void put(int64_t time, const uint8_t *bytes, unsigned length)
{
    stream_submit(&stream, stream_message(&stream, time, bytes, length));
}

static void note(int64_t time, uint8_t status, uint8_t key)
{
    uint8_t bytes[] = { status, key, 90 };
    put(time, bytes, sizeof bytes);
}

/* The notes of a chord begin and end together: one chain, one submission. */
static void chord(int64_t time, uint8_t status, const uint8_t *keys)
{
    unsigned head = NONE, last = NONE;

    for (unsigned i = 0; i < CHORD; i++) {
        uint8_t bytes[] = { status, keys[i], 60 };
        unsigned slot = stream_message(&stream, time, bytes, sizeof bytes);

        if (head == NONE)
            head = slot;
        else
            stream_chain(&stream, last, slot);
        last = slot;
    }
    stream_submit(&stream, head);
}

/* What step `step` of the tune begins with; all at one time. */
static void put_step(unsigned step, int64_t time)
{
    if (step > 0)
        note(time, 0x80, melody[step - 1]);
    if (step == STEPS)
        return;
    if (step % 4 == 0)
        chord(time, 0x91, chords[step / 4]);
    if (step % 4 == 3)
        chord(time, 0x81, chords[step / 4]);
    note(time, 0x90, melody[step]);
}

static int play(void)
{
    int64_t base = stream_time_base(&stream), time = 0;
    int error;

    put(0, gs_reset, sizeof gs_reset);
    put(0, setup[0], sizeof setup[0]);
    put(0, setup[1], sizeof setup[1]);
    for (unsigned step = 0; step <= STEPS; step++) {
        time = MILLISECONDS(250) * step;
        /* The pool is smaller than the tune. Everything before this step is submitted: let it play, and take its
           slots home. */
        while (stream.free_slots < STEP_MESSAGES) {
            stream_flush(&stream);
            card_grant(&card, base + time);
            error = card_wait(&card, base + time);
            if (error)
                return error;
            stream_reclaim(&stream);
        }
        put_step(step, time);
    }
    stream_flush(&stream);
    /* Three seconds more, so that the last notes can fade. */
    time += MILLISECONDS(3000);
    card_grant(&card, base + time);
    return card_wait(&card, base + time);
}

/* What the card says of this driver; 0 if nothing. */
static int judged(void)
{
    uint32_t fault = card_read(&card, DMUS_REG_FAULT);

    stream_reclaim(&stream);
    say("dmus: presented ", stream.ended[DMUS_STATUS_PRESENTED]);
    if (stream.ended[DMUS_STATUS_REJECTED])
        say("dmus: rejected R", stream.rejected);
    if (fault)
        say("dmus: fault F", fault);
    return fault || stream.ended[DMUS_STATUS_REJECTED];
}

static void end(const char *where, int error)
{
    print("dmus: failed to ");
    print(where);
    say(", error ", (uint64_t)error);
    power_off(0);
}

/* PVH's start information: at 24 the address of the command line. */
void guest_main(const uint8_t *start);

void guest_main(const uint8_t *start)
{
    const char *mistake = wrong_name(*(const uint64_t *)(const void *)(start + 24));
    int error;

    if ((error = card_open(&card)))
        end("open the card", error);
    if ((error = stream_open(&stream, &card, 0, &shared)))
        end("open the stream", error);
    if ((error = stream_set_state(&stream, DMUS_STATE_RUN)))
        end("run", error);
    error = mistake ? wrong(mistake, &stream) : play();
    if (error)
        end("play", error);
    error = judged();
    (void)stream_set_state(&stream, DMUS_STATE_STOP);
    (void)stream_close(&stream);
    print(error ? "dmus: the card found this driver wrong\n" : "dmus: played\n");
    power_off(!error);
}
