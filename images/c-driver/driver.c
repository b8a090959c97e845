/* The driver, in the order of the data sheet's six steps: find, start, create, run, submit, reclaim. */
#include "driver.h"
#include "machine.h"

enum { PCI_COMMAND = 0x04, PCI_BAR = 0x10, MEMORY_SPACE = 1 << 1, BUS_MASTER = 1 << 2 };

/* Registers are trapped accesses, of 4 bytes, or of 8 where the header says so. */
uint32_t card_read(struct card *card, uint32_t offset)
{
    return *(volatile uint32_t *)(card->registers + offset);
}

static void card_write(struct card *card, uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)(card->registers + offset) = value;
}

static void card_write64(struct card *card, uint32_t offset, uint64_t value)
{
    *(volatile uint64_t *)(card->registers + offset) = value;
}

static uint64_t card_read64(struct card *card, uint32_t offset)
{
    return *(volatile uint64_t *)(card->registers + offset);
}

/* Words of the doorbell page are plain memory: what was stored before a release is there for whom acquires. */
static uint32_t page_load(struct card *card, uint32_t offset)
{
    return __atomic_load_n((volatile uint32_t *)(card->page + offset), __ATOMIC_ACQUIRE);
}

static void page_store(struct card *card, uint32_t offset, uint32_t value)
{
    __atomic_store_n((volatile uint32_t *)(card->page + offset), value, __ATOMIC_RELEASE);
}

static uint32_t page_word(struct stream *stream, uint32_t word)
{
    return DMUS_DOORBELL_STREAM(stream->number) + word;
}

static volatile uint8_t *bar(uint32_t function, uint32_t index)
{
    /* The firmware has given it an address below 4 GiB. The low bits say what kind of BAR it is. */
    return (volatile uint8_t *)(uintptr_t)(pci_read(function, PCI_BAR + 4 * index) & ~15u);
}

/* 1, 2: finds the card and starts it. */
int card_open(struct card *card)
{
    uint32_t function = pci_find(DMUS_PCI_VENDOR_ID, DMUS_PCI_DEVICE_ID);

    if (function == NO_FUNCTION)
        return ERROR_NO_CARD;
    pci_write(function, PCI_COMMAND, pci_read(function, PCI_COMMAND) | MEMORY_SPACE | BUS_MASTER);
    card->registers = bar(function, DMUS_PCI_REGISTER_BAR);
    card->page = bar(function, DMUS_PCI_DOORBELL_BAR);
    card->rung = 0;
    /* Another major version is another card. */
    if (card_read(card, DMUS_REG_MAGIC) != DMUS_MAGIC_VALUE ||
        card_read(card, DMUS_REG_VERSION) >> 16 != DMUS_VERSION_VALUE >> 16)
        return ERROR_VERSION;
    card_write(card, DMUS_REG_CONTROL, DMUS_CONTROL_RESET);
    card_write(card, DMUS_REG_POINTER_WIDTH, sizeof(void *));
    card_write(card, DMUS_REG_CONTROL, DMUS_CONTROL_ENABLE);
    return 0;
}

/* The card may sleep, and have missed what was stored on the page. Waking it once a sleep is enough. */
static void card_wake(struct card *card)
{
    uint32_t armed;

    /* What was stored must be out before the look at WAKE_ARMED. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    armed = page_load(card, DMUS_DOORBELL_WAKE_ARMED);
    if (armed != 0 && armed != card->rung) {
        card->rung = armed;
        card_write(card, DMUS_REG_WAKE, 1);
    }
}

void card_grant(struct card *card, int64_t time)
{
    __atomic_store_n((volatile int64_t *)(card->page + DMUS_DOORBELL_GRANT), time, __ATOMIC_RELEASE);
    card_wake(card);
}

int card_wait(struct card *card, int64_t time)
{
    uint64_t limit = patience();

    while (__atomic_load_n((volatile int64_t *)(card->page + DMUS_DOORBELL_MASTER_TIME), __ATOMIC_ACQUIRE) < time)
        if (lost_patience(limit))
            return ERROR_TIMEOUT;
    return 0;
}

/* Writes TYPE or STATE, and awaits the answer: one transition at a time, and no grant meanwhile. */
static int transition(struct stream *stream, uint32_t reg, uint32_t value)
{
    uint32_t before = page_load(stream->card, page_word(stream, DMUS_DOORBELL_TRANSITIONS));
    uint64_t limit = patience();

    card_write(stream->card, DMUS_REG_STREAM(stream->number) + reg, value);
    while (page_load(stream->card, page_word(stream, DMUS_DOORBELL_TRANSITIONS)) == before)
        if (lost_patience(limit))
            return ERROR_TIMEOUT;
    return (int)page_load(stream->card, page_word(stream, DMUS_DOORBELL_REFUSAL));
}

/* 3: creates the stream. */
int stream_open(struct stream *stream, struct card *card, unsigned number, struct shared *shared)
{
    uint32_t block = DMUS_REG_STREAM(number);

    *stream = (struct stream){ .card = card, .number = number, .shared = shared };
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        stream->free_slot[stream->free_slots++] = (uint16_t)slot;
        stream->next[slot] = stream->buffer[slot] = NONE;
    }
    for (unsigned buffer = 0; buffer < BUFFERS; buffer++)
        stream->free_buffer[stream->free_buffers++] = (uint16_t)buffer;
    card_write64(card, block + DMUS_STREAM_POOL_BASE, bus_address(shared->pool));
    card_write(card, block + DMUS_STREAM_SLOT_COUNT, SLOTS);
    card_write(card, block + DMUS_STREAM_SLOT_STRIDE, STRIDE);
    card_write64(card, block + DMUS_STREAM_BUFFER_BASE, bus_address(shared->buffers));
    card_write(card, block + DMUS_STREAM_BUFFER_SIZE, BUFFER_SIZE);
    card_write(card, block + DMUS_STREAM_BUFFER_COUNT, BUFFERS);
    card_write64(card, block + DMUS_STREAM_SUBMISSION_BASE, bus_address(shared->submissions));
    card_write(card, block + DMUS_STREAM_SUBMISSION_SIZE, RING);
    card_write64(card, block + DMUS_STREAM_COMPLETION_BASE, bus_address(shared->completions));
    card_write(card, block + DMUS_STREAM_COMPLETION_SIZE, RING);
    return transition(stream, DMUS_STREAM_TYPE, DMUS_TYPE_RENDER);
}

/* 4: runs and stops it. */
int stream_set_state(struct stream *stream, uint32_t state)
{
    return transition(stream, DMUS_STREAM_STATE, state);
}

int64_t stream_time_base(struct stream *stream)
{
    return (int64_t)card_read64(stream->card, DMUS_REG_STREAM(stream->number) + DMUS_STREAM_TIME_BASE);
}

int stream_close(struct stream *stream)
{
    return transition(stream, DMUS_STREAM_TYPE, DMUS_TYPE_CLOSED);
}

static void store_address(uint8_t *to, uint64_t address)
{
    for (unsigned i = 0; i < sizeof address; i++)
        to[i] = (uint8_t)(address >> 8 * i);
}

/* 5: fills slots and submits them. From the flush on they are the card's. */
unsigned stream_message(struct stream *stream, int64_t time, const uint8_t *bytes, unsigned length)
{
    int inlined = length <= sizeof(uint64_t);
    struct dmus_event64 *event;
    uint8_t *data;
    unsigned slot;

    if (stream->free_slots == 0 || length > BUFFER_SIZE || (!inlined && stream->free_buffers == 0))
        return NONE;
    slot = stream->free_slot[--stream->free_slots];
    event = &stream->shared->pool[slot].event;
    *event = (struct dmus_event64){ .struct_size = sizeof *event, .event_bytes = (uint16_t)length, .time = time };
    data = event->data;
    if (!inlined) {
        stream->buffer[slot] = stream->free_buffer[--stream->free_buffers];
        data = stream->shared->buffers[stream->buffer[slot]];
        store_address(event->data, bus_address(data));
    }
    for (unsigned i = 0; i < length; i++)
        data[i] = bytes[i];
    return slot;
}

void stream_chain(struct stream *stream, unsigned slot, unsigned next)
{
    stream->next[slot] = (uint16_t)next;
    stream->shared->pool[slot].event.next = bus_address(&stream->shared->pool[next]);
}

void stream_submit(struct stream *stream, unsigned slot)
{
    stream->shared->submissions[stream->tail++ % RING] = slot;
}

void stream_flush(struct stream *stream)
{
    page_store(stream->card, page_word(stream, DMUS_DOORBELL_SUBMISSION_TAIL), stream->tail);
    card_wake(stream->card);
}

/* 6: each completion names the head of a chain that is the driver's again. */
void stream_reclaim(struct stream *stream)
{
    uint32_t head = page_load(stream->card, page_word(stream, DMUS_DOORBELL_COMPLETION_HEAD));

    for (; stream->head != head; stream->head++) {
        struct dmus_completion done = stream->shared->completions[stream->head % RING];
        unsigned slot = done.slot;

        if (done.status <= DMUS_STATUS_COPIED)
            stream->ended[done.status]++;
        if (done.status == DMUS_STATUS_REJECTED)
            stream->rejected = done.flags;
        while (slot < SLOTS && stream->free_slots < SLOTS) {
            unsigned next = stream->next[slot];

            if (stream->buffer[slot] != NONE)
                stream->free_buffer[stream->free_buffers++] = stream->buffer[slot];
            stream->next[slot] = stream->buffer[slot] = NONE;
            stream->free_slot[stream->free_slots++] = (uint16_t)slot;
            slot = next;
        }
    }
}
