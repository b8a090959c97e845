/* What the driver needs of the machine. A driver for an operating system calls that one's functions instead. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>

/* The serial port. */
void print(const char *text);
void print_number(uint64_t number);

/* Ends QEMU: with status 99 if all went well, else with 33 (-device isa-debug-exit,iobase=0xf4). */
void power_off(int success) __attribute__((noreturn));

/* Finds a PCI function: its address for the functions below, or NO_FUNCTION. */
#define NO_FUNCTION 0xffffffffu
uint32_t pci_find(uint16_t vendor, uint16_t device);
uint32_t pci_read(uint32_t function, uint32_t offset);
void pci_write(uint32_t function, uint32_t offset, uint32_t value);

/* The address of memory as devices on the bus have it. Behind an IOMMU it is another one than the processor's. */
uint64_t bus_address(const volatile void *memory);

/* Waiting: how long a `patience` lasts is some 10 s, on any processor of today. */
uint64_t patience(void);
int lost_patience(uint64_t patience);

#endif
