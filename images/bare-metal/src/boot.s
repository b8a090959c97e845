/* From the boot loader to kmain: both loaders enter start32 in 32-bit protected mode without paging, interrupts off.
   Then the interrupt and exception entries, which src/interrupts.rs puts into the IDT. */

.set PAGE, 4096
.set PRESENT_WRITABLE, 0x03
.set LARGE, 0x80
.set CR0_PE_MP, 0x00000003
.set CR0_EM_TS, 0x0000000c
.set CR0_PG, 0x80000000
.set CR4_PAE_OSFXSR_OSXMMEXCPT, 0x620
.set EFER, 0xc0000080
.set EFER_LME, 0x100
.set APIC_EOI, 0xfee000b0

/* Multiboot2 header: magic, architecture i386, length, checksum; then the end tag. */
.section .multiboot2, "a"
.balign 8
multiboot2:
        .long 0xe85250d6, 0, multiboot2_end - multiboot2
        .long -(0xe85250d6 + (multiboot2_end - multiboot2))
        .short 0, 0
        .long 8
multiboot2_end:

/* PVH: an ELF note of the owner "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY), holds the entry's address. */
.section .note.pvh, "a", @note
.balign 4
        .long 4, 8, 18
        .asciz "Xen"
        .balign 4
        .quad start32

.section .boot, "ax"
.code32
.global start32
start32:
        cli
        cld
        movl %eax, %ebp                 /* multiboot2: its magic; PVH: undefined */
        movl %ebx, %esi                 /* either: the address of its information */

        movl $__bss_start, %edi
        movl $__bss_end, %ecx
        subl %edi, %ecx
        shrl $2, %ecx
        xorl %eax, %eax
        rep stosl

        /* Identity map of 4 GiB in pages of 2 MiB: all memory that the guest uses, and every 32-bit BAR. */
        movl $page_directories, %edi
        movl $(PRESENT_WRITABLE | LARGE), %eax
        movl $2048, %ecx
1:      movl %eax, (%edi)
        movl $0, 4(%edi)
        addl $0x200000, %eax
        addl $8, %edi
        decl %ecx
        jnz 1b
        /* The upper two tables are cleared with the .bss. */
        movl $pointer_table, %edi
        movl $(page_directories + PRESENT_WRITABLE), %eax
        movl $4, %ecx
2:      movl %eax, (%edi)
        addl $PAGE, %eax
        addl $8, %edi
        decl %ecx
        jnz 2b
        movl $(pointer_table + PRESENT_WRITABLE), top_table

        /* core of the host target uses SSE: without OSFXSR its first instruction of that kind would fault. */
        movl %cr4, %eax
        orl $CR4_PAE_OSFXSR_OSXMMEXCPT, %eax
        movl %eax, %cr4
        movl $top_table, %eax
        movl %eax, %cr3
        movl $EFER, %ecx
        rdmsr
        orl $EFER_LME, %eax
        wrmsr
        movl %cr0, %eax
        andl $~CR0_EM_TS, %eax
        orl $(CR0_PG | CR0_PE_MP), %eax
        movl %eax, %cr0
        lgdt gdt_pointer
        ljmp $0x08, $start64

.code64
start64:
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        xorl %eax, %eax
        movw %ax, %fs
        movw %ax, %gs
        leaq boot_stack_top(%rip), %rsp

        /* A TSS descriptor scatters its address, which no linker relocation can do. */
        leaq tss(%rip), %rax
        leaq gdt_tss(%rip), %rdx
        movw %ax, 2(%rdx)
        shrq $16, %rax
        movb %al, 4(%rdx)
        movb %ah, 7(%rdx)
        shrq $16, %rax
        movl %eax, 8(%rdx)
        leaq tss(%rip), %rdx
        leaq interrupt_stack_top(%rip), %rax
        movq %rax, 36(%rdx)             /* IST 1 */
        leaq exception_stack_top(%rip), %rax
        movq %rax, 44(%rdx)             /* IST 2 */
        movw $104, 102(%rdx)            /* no I/O permission map */
        movw $0x18, %ax
        ltr %ax

        movl %ebp, %edi
        xorl %ebp, %ebp                 /* the end of the chain of frames, for a debugger */
        call kmain
3:      cli
        hlt
        jmp 3b

.section .text
/* Interrupts only count. No Rust runs here, so no SSE register needs saving, and nothing can nest. */
.balign 32
.global interrupt_entries               /* INTERRUPT_ENTRIES of them, 32 bytes each */
interrupt_entries:
.set i, 0
.rept 17
        .balign 32
        pushq %rax
        incq INTERRUPT_COUNTS + 8 * i(%rip)
        movl $APIC_EOI, %eax
        movl $0, (%rax)
        popq %rax
        iretq
        .set i, i + 1
.endr

/* The local APIC's spurious vector wants no end of interrupt. */
.global spurious_entry
spurious_entry:
        iretq

.balign 16
.global exception_entries               /* 32 of them, 16 bytes each */
exception_entries:
.set i, 0
.rept 32
        .balign 16
        /* These the processor gives an error code; the others get one here, so that all frames are alike. */
        .if !((i == 8) || ((i >= 10) && (i <= 14)) || (i == 17) || (i == 21) || (i == 29) || (i == 30))
        pushq $0
        .endif
        pushq $i
        jmp exception_common
        .set i, i + 1
.endr
exception_common:
        popq %rdi                       /* vector */
        popq %rsi                       /* error code */
        movq (%rsp), %rdx               /* rip */
        movq %cr2, %rcx
        movq 24(%rsp), %r8              /* rsp */
        andq $-16, %rsp
        cld
        call exception
4:      cli
        hlt
        jmp 4b

.section .data
.balign 16
gdt:
        .quad 0
        .quad 0x00af9a000000ffff        /* 0x08: 64-bit code */
        .quad 0x00cf92000000ffff        /* 0x10: data */
gdt_tss:
        .quad 0x0000890000000067        /* 0x18: TSS of 104 bytes */
        .quad 0
gdt_pointer:
        .word gdt_pointer - gdt - 1
        .long gdt

.section .bss
.balign PAGE
top_table:
        .skip PAGE
pointer_table:
        .skip PAGE
.balign 16
tss:
        .skip 104

.section .uncleared, "aw", @nobits
.balign PAGE
page_directories:
        .skip 4 * PAGE
        .skip 256 * 1024
boot_stack_top:
        .skip 4 * 1024
interrupt_stack_top:
        .skip 16 * 1024
exception_stack_top:
