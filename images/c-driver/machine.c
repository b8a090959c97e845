/* A PC without an operating system: serial port, PCI through its legacy ports, time stamps, the end. */
#include "machine.h"

enum { SERIAL = 0x3f8, SERIAL_STATUS = SERIAL + 5, SERIAL_FREE = 0x20, DEBUG_EXIT = 0xf4 };
enum { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc };

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void print(const char *text)
{
    for (; *text; text++) {
        /* Bounded, so that a machine without a serial port plays, too. */
        for (int tries = 0; tries < 100000 && !(in8(SERIAL_STATUS) & SERIAL_FREE); tries++) {
        }
        out8(SERIAL, (uint8_t)*text);
    }
}

void print_number(uint64_t number)
{
    char text[21];
    char *at = &text[20];

    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    print(at);
}

void power_off(int success)
{
    out32(DEBUG_EXIT, success ? 0x31 : 0x10);
    for (;;)
        __asm__ volatile("cli; hlt");
}

uint32_t pci_read(uint32_t function, uint32_t offset)
{
    out32(PCI_ADDRESS, function | offset);
    return in32(PCI_DATA);
}

void pci_write(uint32_t function, uint32_t offset, uint32_t value)
{
    out32(PCI_ADDRESS, function | offset);
    out32(PCI_DATA, value);
}

uint32_t pci_find(uint16_t vendor, uint16_t device)
{
    /* All buses, devices and functions; one that is not there reads as all ones. */
    for (uint32_t number = 0; number < 0x10000; number++) {
        uint32_t function = 1u << 31 | number << 8;
        if (pci_read(function, 0) == ((uint32_t)device << 16 | vendor))
            return function;
    }
    return NO_FUNCTION;
}

uint64_t bus_address(const volatile void *memory)
{
    /* All memory is identity mapped, and this machine has no IOMMU. */
    return (uintptr_t)memory;
}

static uint64_t time_stamp(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

uint64_t patience(void)
{
    return time_stamp() + (UINT64_C(1) << 35);
}

int lost_patience(uint64_t patience)
{
    __asm__ volatile("pause");
    return time_stamp() > patience;
}

/* What compilers call even in programs without a library. */
void *memset(void *to, int value, uint64_t bytes)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, uint64_t bytes)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}
